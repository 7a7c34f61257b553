use std::sync::LazyLock;

use axum::{
    body::Bytes,
    extract::Path,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::http::not_found;

/// A file that pages load. Its URL contains a hash of its content, so browsers may cache it
/// forever.
pub(super) struct Asset {
    file: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    version: LazyLock<String>,
}

macro_rules! asset {
    ($file:literal, $kind:literal) => {
        Asset {
            file: $file,
            kind: $kind,
            bytes: include_bytes!(concat!("assets/", $file)),
            version: LazyLock::new(|| version(include_bytes!(concat!("assets/", $file)))),
        }
    };
}

pub(super) static STYLES: Asset = asset!("lockable.css", "text/css; charset=utf-8");
pub(super) static SCRIPT: Asset = asset!("lockable.js", "text/javascript; charset=utf-8");
static ICON: Asset = asset!("icon.svg", "image/svg+xml");

fn version(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

impl Asset {
    pub(super) fn url(&self) -> String {
        format!("/assets/{}/{}", *self.version, self.file)
    }

    fn response(&self, cache_control: &'static str) -> Response {
        let mut response = Bytes::from_static(self.bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache_control));
        response
    }
}

/// `GET /assets/{version}/{file}`. During a rolling upgrade a page of one version may request
/// a file from a server of another: it gets that server's file, uncached.
pub(super) async fn asset(Path((version, file)): Path<(String, String)>) -> Response {
    let Some(found) = [&STYLES, &SCRIPT, &ICON].into_iter().find(|asset| asset.file == file) else {
        return not_found();
    };
    let is_current = *found.version == version;
    found.response(if is_current { "public, max-age=31536000, immutable" } else { "no-store" })
}

/// `GET /favicon.ico`.
pub(super) async fn icon() -> Response {
    ICON.response("public, max-age=86400")
}
