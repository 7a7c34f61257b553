//! Requests that servers and proxies along the way may understand differently (RFC 9112,
//! sections 3.2 and 6.1) are refused.

use axum::http::{HeaderMap, Version, header};

use super::problem::{Kind, Problem};

/// Refuses a request over HTTP/1.1 without exactly one `Host`, and one in any version whose
/// body is coded otherwise than in chunks.
pub(super) fn refuse_ambiguous(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let has_one = hosts.next().is_some();
    if hosts.next().is_some() || !has_one && version == Version::HTTP_11 {
        return Err(Problem::new(Kind::MalformedRequest, "a request has exactly one field Host"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Problem::new(Kind::MalformedRequest, "the only transfer coding is \"chunked\""));
    }
    Ok(())
}
