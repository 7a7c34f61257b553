//! The OpenAPI document, `/openapi.json`. It is generated from the types that the handlers read and
//! write, and its parameter schemas match the parsers exactly.

mod exact;
mod patterns;

use std::sync::{Arc, OnceLock};

use axum::{
    Json,
    extract::State,
    http::{Extensions, HeaderMap},
};
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, Modify, OpenApi, ToSchema,
    openapi::{
        self, PathItem, RefOr, Schema,
        schema::AnyOfBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use self::exact::ParameterSchemas;
use super::{
    account, acquire, heartbeat, list, lock,
    origin::origin,
    problem::ProblemView,
    release,
    responses::{Granted, LockAnswer, NoFields, NotAcquired, NotChanged, Renewed},
    terraform,
};
use crate::app::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lockable",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        description = "`flock` for distributed systems, over plain HTTPS. Authenticate with HTTP basic authentication \
                       (the token as the user name, an empty password), or send the token as a bearer token.\n\nThe lock \
                       name is the rest of the path and may contain `/`. The routes that change a lock accept GET and \
                       POST alike. A POST takes each parameter either from the query string or from the body (a form or \
                       a JSON object), not from both; this document describes the body.\n\nThe limits of names, owners, \
                       notes and prefixes are in bytes of UTF-8, which JSON Schema cannot express; longer values get \
                       400. Numbers in a JSON object have no fraction and no exponent."
    ),
    paths(
        acquire::acquire,
        heartbeat::heartbeat,
        release::release,
        lock::inspect,
        lock::break_lock,
        list::list,
        account::account,
        terraform::acquire,
        terraform::unlock,
    ),
    tags(
        (name = "locks", description = "Acquire, renew and release locks"),
        (name = "inspection", description = "Inspect locks and the account, and break a lock"),
        (name = "terraform", description = "Lock the state of Terraform and OpenTofu"),
    ),
    security(("token" = []), ("bearer" = [])),
    modifiers(&SecuritySchemes, &PostAsGet, &OneOfToAnyOf),
)]
struct ApiDocument;

/// The problem responses of every request with a token.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "handlers return `Problem`; this type only documents it")]
pub(super) enum Problems {
    /// The request is malformed; `detail` names the cause.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(#[to_schema] ProblemView<'static>),
    /// The token is missing, wrong, expired or revoked.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(#[to_schema] ProblemView<'static>),
    /// The token, the account or its plan does not allow the request.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] ProblemView<'static>),
    /// The account has used up its request rate, or its limit of locks or queued requests.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] ProblemView<'static>),
    /// The server is overloaded, or the lock store or account database did not answer in time.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] ProblemView<'static>),
}

/// Further problem responses of a request with a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "handlers return `Problem`; this type only documents it")]
pub(super) enum BodyProblems {
    /// The body is longer than 16 KiB.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] ProblemView<'static>),
    /// The body is neither a form nor a JSON object.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(#[to_schema] ProblemView<'static>),
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident: $($case:ident($answer:ty)),*;)*) => {
        $(
            $(#[$doc])*
            #[derive(ToSchema, serde::Serialize)]
            #[serde(untagged)]
            #[expect(dead_code, reason = "handlers return the variants themselves; this type only documents them")]
            pub(super) enum $name { $($case(LockAnswer<'static, $answer>)),* }
        )*
    };
}

answers! {
    /// Whether the lock was acquired.
    AcquireAnswer: Acquired(Granted<'static>), NotAcquired(NotAcquired<'static>);
    /// Whether the lease was renewed.
    HeartbeatAnswer: Renewed(Renewed), NotRenewed(NotChanged);
    /// Whether the lock was released.
    ReleaseAnswer: Released(NoFields), NotReleased(NotChanged);
    /// Whether the lock was broken.
    BreakAnswer: Broken(lock::BrokenHolder<'static>), NotBroken(NotChanged);
}

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, scheme, description) in [
            ("token", HttpAuthScheme::Basic, "The token is the user name; the password is empty"),
            ("bearer", HttpAuthScheme::Bearer, "The token as a bearer token"),
        ] {
            let scheme = HttpBuilder::new().scheme(scheme).description(Some(description)).build();
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

/// Replaces `oneOf` by `anyOf`: the schema of a `false` response also matches some `true` responses.
struct OneOfToAnyOf;

impl Modify for OneOfToAnyOf {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for schema in components.schemas.values_mut() {
            if let RefOr::T(Schema::OneOf(one)) = schema {
                let any = one.items.iter().cloned().fold(AnyOfBuilder::new(), AnyOfBuilder::item);
                *schema = any.description(one.description.take()).into();
            }
        }
    }
}

/// Copies the POST operations of the lock routes to GET, which takes the parameters from the query string.
struct PostAsGet;

impl Modify for PostAsGet {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            let name = path.strip_prefix("/v1/").and_then(|rest| rest.strip_suffix("/{name}"));
            if let Some(name @ ("acquire" | "heartbeat" | "release")) = name {
                copy_post(item, name);
            }
        }
    }
}

fn copy_post(item: &mut PathItem, name: &str) {
    if let Some(post) = &item.post {
        let mut get = post.clone();
        get.request_body = None;
        get.operation_id = Some(format!("{name}_by_get"));
        for status in ["413", "415"] {
            get.responses.responses.remove(status);
        }
        item.get = Some(get);
    }
}

/// The document without `servers`, which depends on the request.
pub fn description(app: &App) -> &'static Value {
    // A process has one server.
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| {
        let mut api = serde_json::to_value(ApiDocument::openapi()).unwrap_or_default();
        ParameterSchemas::new(app.wait_max).refine(&mut api);
        api
    })
}

/// `GET /openapi.json`.
pub(super) async fn openapi(State(app): State<Arc<App>>, extensions: Extensions, headers: HeaderMap) -> Json<Value> {
    let mut api = description(&app).clone();
    // Relative to the document's URL if the request has no usable Host header.
    let url = origin(&app, &extensions, &headers).unwrap_or_else(|| "/".into());
    if let Some(api) = api.as_object_mut() {
        api.insert("servers".into(), json!([{ "url": url }]));
    }
    Json(api)
}
