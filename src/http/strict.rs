//! Rejection of requests by their headers: ambiguous framing, and prefetches.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::problem::{Problem, ProblemKind};

static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
static PURPOSE: HeaderName = HeaderName::from_static("purpose");

/// The relevant headers, read in one pass: one lookup by name takes as long as iterating over five
/// headers.
#[derive(Default)]
struct CheckedFields {
    hosts: usize,
    codings: usize,
    has_other_coding: bool,
    is_prefetch: bool,
}

impl CheckedFields {
    fn read(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            if *name == header::HOST {
                fields.hosts += 1;
            } else if *name == header::TRANSFER_ENCODING {
                fields.codings += 1;
                fields.has_other_coding |= !value.as_bytes().eq_ignore_ascii_case(b"chunked");
            } else if *name == SEC_PURPOSE || *name == PURPOSE {
                fields.is_prefetch |= is_prefetch(value);
            }
        }
        fields
    }

    /// Refuses a request that proxies could parse differently (RFC 9112, sections 3.2 and 6.1): over
    /// HTTP/1.1 without exactly one `Host`, or in any version with another transfer coding than chunked.
    fn refuse_ambiguous(&self, version: Version) -> Result<(), Problem> {
        if self.hosts > 1 || self.hosts == 0 && version == Version::HTTP_11 {
            return Err(Problem::new(
                ProblemKind::MalformedRequest,
                "the request does not have exactly one Host header; send one",
            ));
        }
        if self.codings > 1 || self.has_other_coding {
            return Err(Problem::new(
                ProblemKind::MalformedRequest,
                "the transfer coding of the body is not \"chunked\"; use this one or Content-Length",
            ));
        }
        Ok(())
    }

    /// Refuses a prefetch, which browsers mark by a field of the Fetch standard or of its predecessors.
    fn refuse_prefetch(&self) -> Result<(), Problem> {
        match self.is_prefetch {
            true => Err(Problem::new(
                ProblemKind::PrefetchRefused,
                "the request is marked as a prefetch; send it without Purpose and Sec-Purpose",
            )),
            false => Ok(()),
        }
    }
}

/// Refuses a request with ambiguous framing.
pub(super) fn refuse_ambiguous(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    CheckedFields::read(headers).refuse_ambiguous(version)
}

/// Refuses a prefetch.
pub(super) fn refuse_prefetch(headers: &HeaderMap) -> Result<(), Problem> {
    CheckedFields::read(headers).refuse_prefetch()
}

/// Refuses ambiguous framing and prefetches.
pub(super) fn refuse_ambiguous_or_prefetch(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let fields = CheckedFields::read(headers);
    fields.refuse_ambiguous(version)?;
    fields.refuse_prefetch()
}

fn is_prefetch(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("prefetch"))
}
