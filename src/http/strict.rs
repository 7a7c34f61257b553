//! Requests that are refused for what their header fields say, whatever they ask for.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::problem::{Kind, Problem};

static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
static PURPOSE: HeaderName = HeaderName::from_static("purpose");

/// What a request's fields say of it. They are read in one pass: looking up one of them takes
/// as long as passing over five.
#[derive(Default)]
struct Fields {
    hosts: usize,
    codings: usize,
    is_otherwise_coded: bool,
    is_prefetch: bool,
}

impl Fields {
    fn read(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            if *name == header::HOST {
                fields.hosts += 1;
            } else if *name == header::TRANSFER_ENCODING {
                fields.codings += 1;
                fields.is_otherwise_coded |= !value.as_bytes().eq_ignore_ascii_case(b"chunked");
            } else if *name == SEC_PURPOSE || *name == PURPOSE {
                fields.is_prefetch |= is_prefetch(value);
            }
        }
        fields
    }

    /// A request that servers and proxies on the way may understand differently (RFC 9112,
    /// sections 3.2 and 6.1): over HTTP/1.1 without exactly one `Host`, and one in any version
    /// whose body is coded otherwise than in chunks.
    fn refuse_ambiguous(&self, version: Version) -> Result<(), Problem> {
        if self.hosts > 1 || self.hosts == 0 && version == Version::HTTP_11 {
            return Err(Problem::new(Kind::MalformedRequest, "a request has exactly one field Host"));
        }
        if self.codings > 1 || self.is_otherwise_coded {
            return Err(Problem::new(Kind::MalformedRequest, "the only transfer coding is \"chunked\""));
        }
        Ok(())
    }

    /// Browsers mark what they fetch ahead of time (the fields of the Fetch standard and of its
    /// forerunners); nobody has asked for that yet.
    fn refuse_prefetch(&self) -> Result<(), Problem> {
        match self.is_prefetch {
            true => Err(Problem::new(Kind::PrefetchRefused, "this request is marked as a prefetch")),
            false => Ok(()),
        }
    }
}

/// Refuses a request that could be understood differently on its way.
pub(super) fn refuse_ambiguous(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    Fields::read(headers).refuse_ambiguous(version)
}

/// Refuses a request that a browser sends ahead of time.
pub(super) fn refuse_prefetch(headers: &HeaderMap) -> Result<(), Problem> {
    Fields::read(headers).refuse_prefetch()
}

/// Refuses both.
pub(super) fn refuse_unfit(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let fields = Fields::read(headers);
    fields.refuse_ambiguous(version)?;
    fields.refuse_prefetch()
}

fn is_prefetch(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("prefetch"))
}
