//! The description of the API for programs, `/openapi.json`, made from the types
//! that the handlers read and write, and from what the parsers accept.

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

use self::exact::Exact;
use super::{
    account, acquire, heartbeat, list, lock,
    origin::origin,
    problem::ProblemView,
    release,
    responses::{Granted, LockAnswer, NotAcquired, NotChanged, Nothing, Renewed},
    terraform,
};
use crate::app::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lockable",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        description = "`flock` for distributed systems, over plain HTTPS. Authenticate with HTTP basic authentication, \
                       where the token is the user name and the password is empty, or with the token as a bearer \
                       token.\n\nA lock's name is the rest of the path; `/` may stand in it. GET and POST are the same \
                       on the routes that change a lock. A POST may have each parameter in the query string or in the \
                       body (a form or a JSON object), and in one of them alone; the body is described.\n\nNames, \
                       owners, notes and prefixes are limited in bytes of UTF-8, which the schemas cannot say; a longer \
                       one is answered 400. A number in a JSON object is written without a fraction and an exponent."
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
        (name = "locks", description = "The three calls"),
        (name = "looking", description = "Who holds what, and breaking a lock"),
        (name = "terraform", description = "For the `http` backend. It sends LOCK and UNLOCK, for which there is no \
                                            place here; POST and DELETE are the same"),
    ),
    security(("token" = []), ("bearer" = [])),
    modifiers(&Token, &GetAsPost, &AnyCase),
)]
struct Description;

/// What any request that needs a token may be answered.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "problems are answered as `Problem`; this says so")]
pub(super) enum Problems {
    /// Something cannot be understood; `detail` says what.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(#[to_schema] ProblemView<'static>),
    /// The token is missing, wrong or revoked.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(#[to_schema] ProblemView<'static>),
    /// The token, the account or its plan does not allow this.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] ProblemView<'static>),
    /// The rate of the account, or what it may have at once, is used up.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] ProblemView<'static>),
    /// Who knows of locks or accounts could not be asked in time.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] ProblemView<'static>),
}

/// What a request with a body may be answered beside that.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "problems are answered as `Problem`; this says so")]
pub(super) enum BodyProblems {
    /// The body is longer than 16 KiB.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] ProblemView<'static>),
    /// The body is neither a form nor JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(#[to_schema] ProblemView<'static>),
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident: $($case:ident($answer:ty)),*;)*) => {
        $(
            $(#[$doc])*
            #[derive(ToSchema, serde::Serialize)]
            #[serde(untagged)]
            #[expect(dead_code, reason = "each case is answered as it is; this says which there are")]
            pub(super) enum $name { $($case(LockAnswer<'static, $answer>)),* }
        )*
    };
}

answers! {
    /// The lock was acquired, or was not.
    AcquireAnswer: AcquireOutcome(Granted<'static>), NotAcquired(NotAcquired<'static>);
    /// The lease was renewed, or was not.
    HeartbeatAnswer: Renewed(Renewed), NotRenewed(NotChanged);
    /// The lock was released, or was not.
    ReleaseAnswer: Released(Nothing), NotReleased(NotChanged);
    /// The lock was broken, or was not.
    BreakAnswer: Broken(lock::Was<'static>), NotBroken(NotChanged);
}

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, scheme, description) in [
            ("token", HttpAuthScheme::Basic, "The token as the user name, and an empty password"),
            ("bearer", HttpAuthScheme::Bearer, "The token"),
        ] {
            let scheme = HttpBuilder::new().scheme(scheme).description(Some(description)).build();
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

/// A "no" may have all that a "yes" has, and then fits both.
struct AnyCase;

impl Modify for AnyCase {
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

/// The documented API asks by GET for what is described as a POST.
struct GetAsPost;

impl Modify for GetAsPost {
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

/// The description, but for the server's address, which is that of each request.
pub fn description(app: &App) -> &'static Value {
    // A process has one server.
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| {
        let mut api = serde_json::to_value(Description::openapi()).unwrap_or_default();
        Exact::new(app.wait_max).refine(&mut api);
        api
    })
}

/// `GET /openapi.json`.
pub(super) async fn openapi(State(app): State<Arc<App>>, extensions: Extensions, headers: HeaderMap) -> Json<Value> {
    let mut api = description(&app).clone();
    // Relative to the address of the description, where the request names no host.
    let url = origin(&app, &extensions, &headers).unwrap_or_else(|| "/".into());
    if let Some(api) = api.as_object_mut() {
        api.insert("servers".into(), json!([{ "url": url }]));
    }
    Json(api)
}
