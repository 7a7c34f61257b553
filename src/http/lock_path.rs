use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts},
};

use super::{
    decode::{DecodeError, decode},
    problem::{Problem, ProblemKind},
};
use crate::lock::{LockName, NameError};

/// The lock name: the path after `/v1/{operation}/`, decoded once by our own decoder, because axum's is
/// lenient.
pub(super) struct LockPath(pub LockName);

impl<S: Sync> FromRequestParts<S> for LockPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        lock_name(&parts.uri).map(Self)
    }
}

/// Parses the lock name of a path.
pub(super) fn lock_name(uri: &Uri) -> Result<LockName, Problem> {
    parse_name(uri).map_err(|error| Problem::new(ProblemKind::MalformedName, error.to_string()))
}

pub(super) fn parse_name(uri: &Uri) -> Result<LockName, NameError> {
    let encoded = uri.path().splitn(4, '/').nth(3).unwrap_or_default();
    let name = decode(encoded).map_err(|error| match error {
        DecodeError::BadEscape => NameError::BadEscape,
        DecodeError::NotUtf8 => NameError::NotUtf8,
    })?;
    LockName::parse(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Result<String, NameError> {
        parse_name(&path.parse().unwrap()).map(|name| name.to_string())
    }

    #[test]
    fn raw_and_encoded_slashes_are_the_same_name() {
        assert_eq!(name("/v1/acquire/team/app?x=1"), Ok("team/app".into()));
        assert_eq!(name("/v1/acquire/team%2Fapp"), Ok("team/app".into()));
        assert_eq!(name("/v1/acquire/team%252Fapp"), Ok("team%2Fapp".into()));
    }

    #[test]
    fn malformed_names_are_refused() {
        assert_eq!(name("/v1/acquire/"), Err(NameError::Empty));
        assert_eq!(name("/v1/acquire/a/%2e%2e/b"), Err(NameError::DotSegment));
        assert_eq!(name("/v1/acquire/a%2"), Err(NameError::BadEscape));
        assert_eq!(name("/v1/acquire/%ff"), Err(NameError::NotUtf8));
        assert_eq!(name("/v1/acquire/%00"), Err(NameError::Control('\0')));
        assert_eq!(name("/v1/acquire//a"), Err(NameError::EmptySegment));
    }
}
