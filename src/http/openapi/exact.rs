//! Parameter schemas that accept exactly what the parsers accept, as far as JSON Schema can express it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::patterns;
use crate::{
    http::cursor,
    lock::{DURATION_MS_MAX, FencingToken, Lease, LockName, Note, Owner},
    locks::Locks,
};

/// The schemas of all parameters.
pub(super) struct ParameterSchemas {
    /// By parameter name; the variant for JSON bodies is `{name} in JSON`.
    schemas: Map<String, Value>,
    /// Long schemas, which `schemas` references.
    components: Map<String, Value>,
    /// An example of `wait` that this server allows.
    wait: String,
}

/// Parameters with long schemas, and the names of their components.
const COMPONENTS: [(&str, &str); 6] = [
    ("name", "LockName"),
    ("namespace", "Namespace"),
    ("owner", "Owner"),
    ("lease", "Duration"),
    ("wait", "Wait"),
    ("note", "Note"),
];

const FORM: &str = "application/x-www-form-urlencoded";

impl ParameterSchemas {
    /// Creates the schemas for a server with this longest wait.
    pub(super) fn new(wait_max: Duration) -> Self {
        let wait_ms = wait_max.as_millis() as u64;
        let mut schemas = object(json!({
            "name": {
                "type": "string", "minLength": 1, "maxLength": LockName::BYTES_MAX, "pattern": patterns::name(),
            },
            "namespace": { "type": "string", "pattern": patterns::namespace() },
            "owner": {
                "type": "string", "minLength": 1, "maxLength": Owner::CHARS_MAX, "pattern": patterns::owner(),
            },
            "lease": { "type": "string", "pattern": patterns::duration() },
            "wait": { "type": "string", "pattern": patterns::duration_up_to(wait_ms) },
            "note": { "type": "string", "maxLength": Note::BYTES_MAX, "pattern": patterns::note() },
            "strict": { "type": "boolean", "default": false },
            "fencing_token": { "type": "integer", "minimum": 1, "maximum": FencingToken::MAX },
            "prefix": { "type": "string", "maxLength": LockName::BYTES_MAX },
            "limit": { "type": "integer", "minimum": 1, "maximum": Locks::PAGE_MAX, "default": 100 },
            "cursor": { "type": "string", "pattern": cursor::PATTERN },
        }));
        let mut components = Map::new();
        for (name, component) in COMPONENTS {
            let reference = json!({ "$ref": format!("#/components/schemas/{component}") });
            components.extend(schemas.insert(name.into(), reference).map(|schema| (component.into(), schema)));
        }
        // Members of a JSON object may have other types; the server reads them as text.
        let text = json!({ "type": "integer", "minimum": i64::MIN, "maximum": u64::MAX });
        let seconds = |max_ms: u64| json!({ "type": "integer", "minimum": 0, "maximum": max_ms / 1000 });
        let flag = json!({ "type": "boolean" });
        let digits = json!({ "type": "string", "pattern": patterns::positive(FencingToken::MAX) });
        for (name, others) in [
            ("owner", vec![text.clone(), flag.clone()]),
            ("note", vec![text.clone(), flag.clone()]),
            ("namespace", vec![json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }), flag]),
            ("lease", vec![seconds(DURATION_MS_MAX)]),
            ("wait", vec![seconds(wait_ms)]),
            ("fencing_token", vec![digits]),
            ("strict", vec![json!({ "type": "string", "enum": ["true", "false"] })]),
        ] {
            let own = schemas.get(name).cloned().unwrap_or_default();
            let any: Vec<_> = [own].into_iter().chain(others).chain([json!({ "type": "null" })]).collect();
            schemas.insert(format!("{name} in JSON"), json!({ "anyOf": any }));
        }
        let wait = Lease::from_ms(wait_ms.min(30_000)).to_string();
        Self { schemas, components, wait }
    }

    /// Replaces the parameter schemas of the whole document.
    pub(super) fn refine(&self, api: &mut Value) {
        for (path, item) in members(&mut api["paths"]) {
            for (method, operation) in members(item) {
                self.refine_operation(operation);
                // Unlocking accepts and ignores the parameters of locking, with any duration as `wait`.
                let is_unlock = method == "delete" && path.contains("terraform");
                for parameter in parameters(operation).filter(|parameter| is_unlock && parameter["name"] == "wait") {
                    set(&mut parameter["schema"], self.schemas.get("lease"));
                }
                let Some(body) = operation.get_mut("requestBody") else { continue };
                let is_form = body["content"].get(FORM).is_some();
                if is_form || is_unlock {
                    body["required"] = false.into();
                }
                if is_form {
                    take_parameters_from_body(operation);
                }
            }
        }
        if let Some(Value::Object(schemas)) = api.pointer_mut("/components/schemas") {
            self.refine_components(schemas);
        }
    }

    fn refine_components(&self, schemas: &mut Map<String, Value>) {
        for name in ["AcquireParams", "HeartbeatParams", "ReleaseParams"] {
            let Some(in_form) = schemas.get_mut(name) else { continue };
            let mut in_json = in_form.clone();
            self.refine_object(in_form, "");
            self.refine_object(&mut in_json, " in JSON");
            schemas.insert(format!("{name}InJson"), in_json);
        }
        if let Some(id) = schemas.get_mut("LockInfo").and_then(|info| info.pointer_mut("/properties/ID")) {
            set(id, self.schemas.get("owner"));
        }
        schemas.extend(self.components.clone());
    }

    fn refine_operation(&self, operation: &mut Value) {
        for parameter in parameters(operation) {
            let schema = parameter["name"].as_str().and_then(|name| self.schemas.get(name)).cloned();
            if let Some(schema) = schema {
                parameter["schema"] = schema;
            }
            if parameter["name"] == "wait" {
                parameter["example"] = self.wait.as_str().into();
            }
        }
    }

    /// Refines the schema of a body: it has only these members, and none is required.
    fn refine_object(&self, object: &mut Value, form: &str) {
        for (name, property) in members(&mut object["properties"]) {
            set(property, self.schemas.get(&format!("{name}{form}")).or_else(|| self.schemas.get(name)));
            if name == "wait" {
                property["example"] = self.wait.as_str().into();
            }
        }
        object["additionalProperties"] = false.into();
        if let Some(object) = object.as_object_mut() {
            object.remove("required");
        }
    }
}

/// Removes the query parameters of a POST. Each parameter is either in the query string or in the
/// body, which a schema cannot express, so only the body is described.
fn take_parameters_from_body(operation: &mut Value) {
    if let Some(Value::Array(parameters)) = operation.get_mut("parameters") {
        parameters.retain(|parameter| parameter["in"] == "path");
    }
    if let Some(schema) = operation.pointer_mut("/requestBody/content/application~1json/schema/$ref") {
        *schema = format!("{}InJson", schema.as_str().unwrap_or_default()).into();
    }
}

/// Replaces a schema, but keeps its description and example.
fn set(schema: &mut Value, by: Option<&Value>) {
    let Some(Value::Object(by)) = by else { return };
    let mut by = by.clone();
    for key in ["description", "example"] {
        if let Some(kept) = schema.get(key) {
            by.insert(key.into(), kept.clone());
        }
    }
    *schema = by.into();
}

fn parameters(operation: &mut Value) -> impl Iterator<Item = &mut Value> {
    operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}
