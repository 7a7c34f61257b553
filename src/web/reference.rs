use std::sync::{Arc, OnceLock};

use askama::Template;
use axum::extract::State;
use serde_json::Value;

use super::{layout::Shell, template::Page};
use crate::{app::App, http::description};

#[derive(Template)]
#[template(path = "reference.html")]
pub(super) struct ReferencePage {
    shell: Shell,
    groups: &'static [Group],
}

/// Operations that belong together.
struct Group {
    name: String,
    about: String,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    about: String,
    /// In the path and the query string.
    parameters: Vec<Member>,
    /// In a body, which may have one of several forms.
    body: Vec<Vec<Member>>,
    answers: Vec<Answer>,
    /// The statuses of problems, which are explained elsewhere.
    problems: Vec<String>,
}

struct Answer {
    status: String,
    about: String,
    /// What its body may be.
    forms: Vec<Vec<Member>>,
}

/// A member of an object, or a parameter.
#[derive(Clone)]
struct Member {
    name: String,
    kind: String,
    about: String,
    is_required: bool,
}

/// `GET /docs/api`: the API for people to read, made from its description for programs.
pub(super) async fn reference(State(app): State<Arc<App>>) -> Page<ReferencePage> {
    static REFERENCE: OnceLock<Vec<Group>> = OnceLock::new();
    let groups = REFERENCE.get_or_init(|| groups(description(&app)));
    Page(ReferencePage { shell: Shell::of_reader("API reference"), groups })
}

fn groups(api: &Value) -> Vec<Group> {
    let group = |tag: &Value| {
        let name = text(tag, "name");
        let operations = items(&api["paths"]).flat_map(|(path, item)| {
            let of_tag = items(item).filter(|(_, operation)| list(&operation["tags"]).any(|tag| tag == name.as_str()));
            of_tag.map(move |(method, operation)| Operation::read(api, path, method, operation)).collect::<Vec<_>>()
        });
        Group { operations: operations.collect(), about: text(tag, "description"), name }
    };
    list(&api["tags"]).map(group).collect()
}

impl Operation {
    fn read(api: &Value, path: &str, method: &str, operation: &Value) -> Self {
        let parameter = |parameter: &Value| Member {
            name: text(parameter, "name"),
            kind: kind(api, &parameter["schema"]),
            about: text(parameter, "description"),
            is_required: parameter["required"] == true,
        };
        // The same members, however they are encoded; a form's are the simplest.
        let mut bodies: Vec<_> = items(at(operation, "/requestBody/content")).collect();
        bodies.sort_by_key(|(media_type, _)| !media_type.contains("form"));
        let body = bodies.first().map(|(_, content)| &content["schema"]);
        let is_problem = |answer: &Value| !at(answer, "/content/application~1problem+json").is_null();
        let (problems, answers): (Vec<_>, Vec<_>) =
            items(&operation["responses"]).partition(|(_, answer)| is_problem(answer));
        let answer = |(status, answer): (&String, &Value)| {
            let schema = items(&answer["content"]).next().map(|(_, content)| &content["schema"]);
            Answer {
                status: status.clone(),
                about: text(answer, "description"),
                forms: schema.map(|schema| forms(api, schema)).unwrap_or_default(),
            }
        };
        Self {
            id: text(operation, "operationId"),
            method: method.to_uppercase(),
            path: path.to_owned(),
            summary: text(operation, "summary"),
            about: text(operation, "description"),
            parameters: list(&operation["parameters"]).map(parameter).collect(),
            body: body.map(|schema| forms(api, schema)).unwrap_or_default(),
            answers: answers.into_iter().map(answer).collect(),
            problems: problems.into_iter().map(|(status, _)| status.clone()).collect(),
        }
    }
}

/// The objects that a schema allows, by their members.
fn forms(api: &Value, schema: &Value) -> Vec<Vec<Member>> {
    let schema = resolve(api, schema);
    let any = list(&schema["oneOf"]).chain(list(&schema["anyOf"]));
    let mut found: Vec<Vec<Member>> = any.flat_map(|schema| forms(api, schema)).collect();
    let mut whole = vec![own_members(api, schema)];
    for part in list(&schema["allOf"]) {
        let parts = forms(api, part);
        whole = whole.iter().flat_map(|before| parts.iter().map(|part| [before.as_slice(), part].concat())).collect();
    }
    found.extend(whole.into_iter().filter(|members| !members.is_empty()));
    found
}

fn own_members(api: &Value, schema: &Value) -> Vec<Member> {
    let member = |(name, property): (&String, &Value)| Member {
        name: name.clone(),
        kind: kind(api, property),
        about: text(property, "description"),
        is_required: list(&schema["required"]).any(|required| required == name.as_str()),
    };
    items(&schema["properties"]).map(member).collect()
}

/// What a value is, in a word or a few.
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

/// What a JSON pointer leads to.
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
