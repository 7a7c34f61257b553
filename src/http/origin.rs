use axum::http::{Extensions, HeaderMap, header};

use super::{Connection, is_trusted};
use crate::app::App;

/// Whether the request came by HTTPS: here, or at a proxy that is trusted.
pub fn is_secure(app: &App, extensions: &Extensions, headers: &HeaderMap) -> bool {
    let is_from_proxy = extensions
        .get::<Connection>()
        .is_some_and(|connection| is_trusted(connection.peer().ip(), &app.trusted_proxies));
    let forwarded = headers.get_all("x-forwarded-proto").iter().next_back().and_then(|field| field.to_str().ok());
    let forwarded = forwarded.and_then(|field| field.rsplit(',').next()).map(str::trim);
    app.page.is_https || (is_from_proxy && forwarded == Some("https"))
}

/// The address under which clients reach the server, without a slash at its end: the one that is set, or
/// else the one that the request came to, if the field Host names a host.
pub fn origin(app: &App, extensions: &Extensions, headers: &HeaderMap) -> Option<String> {
    if let Some(origin) = &app.page.origin {
        return Some(origin.clone());
    }
    let scheme = if is_secure(app, extensions, headers) { "https" } else { "http" };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // It stands in lines that people paste into a shell.
    let is_sound =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    is_sound.then(|| format!("{scheme}://{host}"))
}
