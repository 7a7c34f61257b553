use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts},
};

use super::{
    decode::{DecodeError, decode},
    problem::{Kind, Problem},
};
use crate::lock::{LockName, NameError};

/// The lock's name: all of the path behind `/v1/{operation}/`, decoded here,
/// once, because axum's own decoding is lenient.
pub(super) struct LockPath(pub LockName);

impl<S: Sync> FromRequestParts<S> for LockPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        lock_name(&parts.uri).map(Self)
    }
}

/// The name of the lock that is meant.
pub(super) fn lock_name(uri: &Uri) -> Result<LockName, Problem> {
    name_in(uri).map_err(|error| Problem::new(Kind::MalformedName, error.to_string()))
}

pub(super) fn name_in(uri: &Uri) -> Result<LockName, NameError> {
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
        name_in(&path.parse().unwrap()).map(|name| name.to_string())
    }

    #[test]
    fn a_slash_is_the_same_name_raw_and_encoded() {
        assert_eq!(name("/v1/acquire/team/app?x=1"), Ok("team/app".into()));
        assert_eq!(name("/v1/acquire/team%2Fapp"), Ok("team/app".into()));
        assert_eq!(name("/v1/acquire/team%252Fapp"), Ok("team%2Fapp".into()));
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        assert_eq!(name("/v1/acquire/"), Err(NameError::Empty));
        assert_eq!(name("/v1/acquire/a/%2e%2e/b"), Err(NameError::DotSegment));
        assert_eq!(name("/v1/acquire/a%2"), Err(NameError::BadEscape));
        assert_eq!(name("/v1/acquire/%ff"), Err(NameError::NotUtf8));
        assert_eq!(name("/v1/acquire/%00"), Err(NameError::Control('\0')));
        assert_eq!(name("/v1/acquire//a"), Err(NameError::EmptySegment));
    }
}
