use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::accounts::Token;

/// The credentials of a request.
pub(super) enum RequestCredentials {
    Missing,
    /// Not a well-formed token.
    Malformed,
    Token(Token),
}

/// Parses HTTP basic authentication (RFC 7617), in which the token is the user name and the
/// password is empty, or a bearer token (RFC 6750).
pub(super) fn credentials(headers: &HeaderMap) -> RequestCredentials {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return if headers.contains_key(header::AUTHORIZATION) {
            RequestCredentials::Malformed
        } else {
            RequestCredentials::Missing
        };
    };
    field.to_str().ok().and_then(parse_token).map_or(RequestCredentials::Malformed, RequestCredentials::Token)
}

fn parse_token(field: &str) -> Option<Token> {
    let (scheme, encoded) = field.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Token::parse(encoded.trim());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    Token::parse(decoded.strip_suffix(':')?)
}
