use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use axum::{
    body::Bytes,
    extract::Path,
    http::{HeaderValue, header},
    response::{IntoResponse, Redirect, Response},
};
use utoipa_swagger_ui::{Config, serve};

use super::problem::{Kind, Problem};

static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json").use_base_layout()));

/// What a page of this server may load: what it serves itself, and nothing that
/// stands in the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                                       connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// `GET /docs`: the files are found beside the page, so it ends with a slash.
pub(super) async fn to_docs() -> Redirect {
    Redirect::permanent("/docs/")
}

/// `GET /docs/`.
pub(super) async fn docs() -> Result<Response, Problem> {
    file("index.html")
}

/// `GET /docs/{file}`.
pub(super) async fn docs_file(Path(path): Path<String>) -> Result<Response, Problem> {
    file(&path)
}

/// A page for people to read the description, from files in the program.
fn file(path: &str) -> Result<Response, Problem> {
    let found = serve(path, CONFIG.clone()).map_err(|error| {
        tracing::error!(%error, "a file of the documentation cannot be served");
        Problem::internal()
    })?;
    let file = found.ok_or_else(|| Problem::new(Kind::NotFound, "there is nothing here"))?;
    // The files are in the program, and need no copy for each who asks.
    let mut response = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes).into_response(),
        Cow::Owned(bytes) => bytes.into_response(),
    };
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::try_from(file.content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    if file.gzpipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}
