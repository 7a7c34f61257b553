//! Entry points of the fuzzers in `fuzz/` to the parsers of untrusted input, which are otherwise
//! reachable only through a server. Compiled only for fuzzing.

#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "only fuzzers call it, and they look for panics")]

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, Uri, header},
};
use futures_util::FutureExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    client_address::client_address,
    credentials::{RequestCredentials, credentials},
    cursor,
    lock_path::name_in,
    params::AcquireParams,
    request_context::RequestContext,
    terraform,
};
use crate::lock::{LockName, parse_duration_ms};

/// A path. The parsed name must survive encoding and parsing.
pub fn name(path: &[u8]) {
    let Ok(uri) = Uri::try_from([b"/v1/acquire/", path].concat()) else { return };
    let Ok(name) = name_in(&uri) else { return };
    assert!(name.as_str().len() <= LockName::BYTES_MAX);
    let encoded = format!("/v1/acquire/{}", utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC));
    assert_eq!(name_in(&encoded.parse().expect("percent-encoded")).as_ref(), Ok(&name));
}

/// A duration. It must equal its text in milliseconds.
pub fn duration(text: &str) {
    if let Ok(ms) = parse_duration_ms(text) {
        assert!(ms <= 8784 * 3_600_000);
        // Restricted to values of seven digits.
        if ms < 10_000_000 {
            assert_eq!(parse_duration_ms(&format!("{ms}ms")), Ok(ms));
        }
    }
}

/// A query string, a line end, one ignored byte, and a body: JSON if it begins with `{`, else a form.
pub fn params(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (query, body) = data.split_at(end);
    let Ok(uri) = Uri::try_from([b"/v1/acquire/a?", query].concat()) else { return };
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    *request.method_mut() = if body.is_empty() { Method::GET } else { Method::POST };
    let media_type = match body.get(1) {
        Some(b'{') => "application/json",
        _ => "application/x-www-form-urlencoded",
    };
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    let (parts, ()) = request.into_parts();
    let body = Body::from(body.get(2..).unwrap_or_default().to_vec());
    let read =
        AcquireParams::read(&parts, body, &RequestContext::default()).now_or_never().expect("the body is complete");
    if let Ok(read) = read {
        assert!(read.wait.as_millis() <= 8784 * 3_600_000);
        assert!(read.note.as_str().chars().count() <= 500);
    }
}

/// The `Authorization` header.
pub fn basic(field: &[u8]) {
    let Ok(field) = HeaderValue::from_bytes(field) else { return };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, field)]);
    if let RequestCredentials::Token(token) = credentials(&headers) {
        assert!(crate::accounts::Token::parse(&token.reveal()).is_some());
    }
}

/// The `LockInfo` of Terraform.
pub fn lock_info(body: &str) {
    terraform::fuzz(body);
}

/// Several fields `X-Forwarded-For`.
pub fn forwarded_for(fields: &[u8]) {
    let mut headers = HeaderMap::new();
    for field in fields.split(|byte| *byte == b'\n') {
        let Ok(field) = HeaderValue::from_bytes(field) else { continue };
        headers.append("x-forwarded-for", field);
    }
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let trusted = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
    let found = client_address(peer, &headers, &trusted);
    assert_eq!(found, found.to_canonical());
    assert_eq!(client_address(peer, &headers, &[]), peer, "an untrusted peer");
}

/// The cursor of a list.
pub fn cursor(text: &str) {
    if let Ok(cursor) = cursor::parse(text.to_owned()) {
        assert_eq!(cursor::parse(cursor::text(&cursor)), Ok(cursor));
    }
}
