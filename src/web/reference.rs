use std::sync::{Arc, OnceLock};

use askama::Template;
use axum::extract::State;
use serde_json::Value;

use super::{layout::Layout, template::HtmlPage};
use crate::{app::App, http::description};

#[derive(Template)]
#[template(path = "reference.html")]
pub(super) struct ReferencePage {
    layout: Layout,
    groups: &'static [ReferenceGroup],
}

/// The operations of one OpenAPI tag.
struct ReferenceGroup {
    name: String,
    about: String,
    operations: Vec<ReferenceOperation>,
}

struct ReferenceOperation {
    id: String,
    method: String,
    path: String,
    summary: String,
    about: String,
    /// Parameters in the path and the query string.
    parameters: Vec<ReferenceField>,
    /// The fields of the body, one list for each variant of its schema.
    body: Vec<Vec<ReferenceField>>,
    responses: Vec<ReferenceResponse>,
    /// The status codes of problem responses.
    problems: Vec<String>,
}

struct ReferenceResponse {
    status: String,
    about: String,
    /// The fields of the body, one list for each variant of its schema.
    variants: Vec<Vec<ReferenceField>>,
}

/// A field of an object, or a parameter.
#[derive(Clone)]
struct ReferenceField {
    name: String,
    kind: String,
    about: String,
    is_required: bool,
}

/// `GET /docs/api`: the API reference, generated from the OpenAPI description.
pub(super) async fn reference(State(app): State<Arc<App>>) -> HtmlPage<ReferencePage> {
    static REFERENCE: OnceLock<Vec<ReferenceGroup>> = OnceLock::new();
    let groups = REFERENCE.get_or_init(|| groups(description(&app)));
    HtmlPage(ReferencePage { layout: Layout::for_documents("API reference"), groups })
}

fn groups(api: &Value) -> Vec<ReferenceGroup> {
    let group = |tag: &Value| {
        let name = text(tag, "name");
        let operations = items(&api["paths"]).flat_map(|(path, item)| {
            let of_tag = items(item).filter(|(_, operation)| list(&operation["tags"]).any(|tag| tag == name.as_str()));
            of_tag
                .map(move |(method, operation)| ReferenceOperation::read(api, path, method, operation))
                .collect::<Vec<_>>()
        });
        ReferenceGroup { operations: operations.collect(), about: text(tag, "description"), name }
    };
    list(&api["tags"]).map(group).collect()
}

impl ReferenceOperation {
    fn read(api: &Value, path: &str, method: &str, operation: &Value) -> Self {
        let parameter = |parameter: &Value| ReferenceField {
            name: text(parameter, "name"),
            kind: kind(api, &parameter["schema"]),
            about: text(parameter, "description"),
            is_required: parameter["required"] == true,
        };
        // Both encodings have the same fields; the schema of the form is the simpler one.
        let mut bodies: Vec<_> = items(at(operation, "/requestBody/content")).collect();
        bodies.sort_by_key(|(media_type, _)| !media_type.contains("form"));
        let body = bodies.first().map(|(_, content)| &content["schema"]);
        let is_problem = |response: &Value| !at(response, "/content/application~1problem+json").is_null();
        let (problems, responses): (Vec<_>, Vec<_>) =
            items(&operation["responses"]).partition(|(_, response)| is_problem(response));
        let response = |(status, response): (&String, &Value)| {
            let schema = items(&response["content"]).next().map(|(_, content)| &content["schema"]);
            ReferenceResponse {
                status: status.clone(),
                about: text(response, "description"),
                variants: schema.map(|schema| variants(api, schema)).unwrap_or_default(),
            }
        };
        Self {
            id: text(operation, "operationId"),
            method: method.to_uppercase(),
            path: path.to_owned(),
            summary: text(operation, "summary"),
            about: text(operation, "description"),
            parameters: list(&operation["parameters"]).map(parameter).collect(),
            body: body.map(|schema| variants(api, schema)).unwrap_or_default(),
            responses: responses.into_iter().map(response).collect(),
            problems: problems.into_iter().map(|(status, _)| status.clone()).collect(),
        }
    }
}

/// The fields of each object that a schema allows.
fn variants(api: &Value, schema: &Value) -> Vec<Vec<ReferenceField>> {
    let schema = resolve(api, schema);
    let any = list(&schema["oneOf"]).chain(list(&schema["anyOf"]));
    let mut found: Vec<Vec<ReferenceField>> = any.flat_map(|schema| variants(api, schema)).collect();
    let mut whole = vec![own_fields(api, schema)];
    for part in list(&schema["allOf"]) {
        let parts = variants(api, part);
        whole = whole.iter().flat_map(|before| parts.iter().map(|part| [before.as_slice(), part].concat())).collect();
    }
    found.extend(whole.into_iter().filter(|fields| !fields.is_empty()));
    found
}

fn own_fields(api: &Value, schema: &Value) -> Vec<ReferenceField> {
    let field = |(name, property): (&String, &Value)| ReferenceField {
        name: name.clone(),
        kind: kind(api, property),
        about: text(property, "description"),
        is_required: list(&schema["required"]).any(|required| required == name.as_str()),
    };
    items(&schema["properties"]).map(field).collect()
}

/// A short name of a value's type.
fn kind(api: &Value, schema: &Value) -> String {
    let reference = schema["$ref"].as_str();
    let schema = resolve(api, schema);
    let any: Vec<&Value> = list(&schema["oneOf"]).chain(list(&schema["anyOf"])).collect();
    if !any.is_empty() {
        return any.into_iter().map(|schema| kind(api, schema)).collect::<Vec<_>>().join(" or ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    };
    let word = |name: &str| match (name, schema["format"].as_str()) {
        ("array", _) => format!("list of {}", kind(api, &schema["items"])),
        ("string", Some("date-time")) => "time".into(),
        ("object", _) => {
            let inside = items(&schema["properties"]).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            if inside.is_empty() { "object".into() } else { format!("object: {inside}") }
        }
        (name, _) => name.to_owned(),
    };
    let words: Vec<String> = types.into_iter().map(word).collect();
    match (words.is_empty(), reference) {
        (true, Some(reference)) => reference.rsplit('/').next().unwrap_or_default().to_owned(),
        _ => words.join(" or "),
    }
}

fn resolve<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| api.pointer(pointer)).unwrap_or(schema)
}

/// The value at a JSON pointer, or null.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
