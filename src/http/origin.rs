use axum::http::{Extensions, HeaderMap, header};

use super::{Connection, is_trusted};
use crate::app::App;

/// Whether the client used HTTPS, to this server or to a trusted proxy.
pub fn is_secure(app: &App, extensions: &Extensions, headers: &HeaderMap) -> bool {
    let is_from_proxy = extensions
        .get::<Connection>()
        .is_some_and(|connection| is_trusted(connection.peer().ip(), &app.trusted_proxies));
    let forwarded = headers.get_all("x-forwarded-proto").iter().next_back().and_then(|field| field.to_str().ok());
    let forwarded = forwarded.and_then(|field| field.rsplit(',').next()).map(str::trim);
    app.pages.is_https || (is_from_proxy && forwarded == Some("https"))
}

/// The server's public URL without a final slash: the configured one, otherwise the one from the Host
/// header of the request, if that header is valid.
pub fn origin(app: &App, extensions: &Extensions, headers: &HeaderMap) -> Option<String> {
    if let Some(origin) = &app.pages.origin {
        return Some(origin.clone());
    }
    let scheme = if is_secure(app, extensions, headers) { "https" } else { "http" };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // Pages show it in commands that people paste into a shell.
    let is_valid =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    is_valid.then(|| format!("{scheme}://{host}"))
}
