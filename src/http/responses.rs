use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::lock::{AccountId, FencingToken, Grant, Held, LockName, Namespace, NotHeld, Owner};

/// The response to a request about a lock. `response` is the first member: clients of the documented
/// API read nothing else.
#[derive(Serialize, ToSchema)]
pub(super) struct LockAnswer<'a, T> {
    response: bool,
    name: &'a str,
    namespace: &'a str,
    #[serde(flatten)]
    more: T,
}

/// The fields of a response to a successful acquire.
#[derive(Serialize, ToSchema)]
pub(super) struct Granted<'a> {
    owner: Option<&'a str>,
    #[schema(value_type = u64, maximum = 9_007_199_254_740_991_u64)]
    fencing_token: FencingToken,
    lease_ms: u64,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// `true` if the owner already held the lock; the acquire then renewed it like a heartbeat.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    again: bool,
}

/// The fields of a response to a successful heartbeat.
#[derive(Serialize, ToSchema)]
pub(super) struct Renewed {
    #[schema(value_type = u64, maximum = 9_007_199_254_740_991_u64)]
    fencing_token: FencingToken,
    lease_ms: u64,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// The fields of a response to an acquire without a grant.
#[derive(Serialize, ToSchema)]
pub(super) struct NotAcquired<'a> {
    reason: &'static str,
    retry_after_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<ShownHolder<'a>>,
    /// The earliest time of a grant; only with the reason `recovering`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_rfc_3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    recovering_until: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
struct ShownHolder<'a> {
    owner: Option<&'a str>,
    note: &'a str,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    acquired_at: Timestamp,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

#[derive(Serialize, ToSchema)]
pub(super) struct NotChanged {
    reason: &'static str,
}

#[derive(Serialize, ToSchema)]
pub(super) struct NoFields {}

impl<'a, T: Serialize> LockAnswer<'a, T> {
    pub(super) fn yes(name: &'a LockName, namespace: &'a Namespace, more: T) -> Response {
        Self { response: true, name: name.as_str(), namespace: &namespace.name, more }.respond(StatusCode::OK)
    }

    /// A `false` response has status 200, or 423 if the request is strict.
    pub(super) fn no(name: &'a LockName, namespace: &'a Namespace, strict: bool, more: T) -> Response {
        let status = if strict { StatusCode::LOCKED } else { StatusCode::OK };
        Self { response: false, name: name.as_str(), namespace: &namespace.name, more }.respond(status)
    }

    fn respond(&self, status: StatusCode) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// Writes the same JSON as serde, but without the intermediate map of `flatten`: the members of
    /// `more` follow the common ones.
    fn json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(256);
        let written = write_members(&mut json, self);
        written.map_or_else(|_| Vec::new(), |()| json)
    }
}

fn write_members<T: Serialize>(json: &mut Vec<u8>, answer: &LockAnswer<'_, T>) -> serde_json::Result<()> {
    json.extend_from_slice(if answer.response { b"{\"response\":true" } else { b"{\"response\":false" });
    for (member, text) in [(&b",\"name\":"[..], answer.name), (b",\"namespace\":", answer.namespace)] {
        json.extend_from_slice(member);
        serde_json::to_writer(&mut *json, text)?;
    }
    let brace = json.len();
    serde_json::to_writer(&mut *json, &answer.more)?;
    if json.get(brace..) == Some(b"{}") {
        json.truncate(brace);
        json.push(b'}');
    } else if let Some(brace) = json.get_mut(brace) {
        *brace = b',';
    }
    Ok(())
}

impl<'a> Granted<'a> {
    pub(super) fn new(grant: &Grant, owner: Option<&'a Owner>) -> Self {
        let Renewed { fencing_token, lease_ms, expires_at } = Renewed::new(grant);
        Self { owner: owner.map(Owner::as_str), fencing_token, lease_ms, expires_at, again: false }
    }

    /// The response to an owner that already held the lock.
    pub(super) fn again(grant: &Grant, owner: Option<&'a Owner>) -> Self {
        Self { again: true, ..Self::new(grant, owner) }
    }
}

impl Renewed {
    pub(super) fn new(grant: &Grant) -> Self {
        Self { fencing_token: grant.fence, lease_ms: grant.lease.as_ms(), expires_at: grant.expires_at }
    }
}

impl<'a> NotAcquired<'a> {
    pub(super) const HELD: &'static str = "held";
    pub(super) const TIMED_OUT: &'static str = "timed_out";
    pub(super) const REPLACED: &'static str = "replaced";
    pub(super) const CANCELLED: &'static str = "cancelled";
    pub(super) const DRAINING: &'static str = "draining";

    /// `held` is the current grant, if known. Only callers of the holder's account get the holder.
    pub(super) fn new(reason: &'static str, held: Option<&'a Held>, caller: AccountId) -> Self {
        let of_caller = held.map(|held| &held.holder).filter(|holder| holder.account == caller);
        let holder = of_caller.map(|holder| ShownHolder {
            owner: holder.owner.as_ref().map(Owner::as_str),
            note: holder.note.as_str(),
            acquired_at: holder.acquired_at,
            expires_at: holder.expires_at,
        });
        let retry_after_ms = match reason {
            // Another server accepts the request at once.
            Self::DRAINING => 0,
            _ => held.map_or(0, |held| held.remaining.as_millis() as u64),
        };
        Self { reason, retry_after_ms, holder, recovering_until: None }
    }
}

impl NotAcquired<'_> {
    /// A recovery is in progress: Redis may have lost grants, so the server grants nothing for this time.
    pub(super) fn recovering(rest: Duration) -> Self {
        Self {
            reason: "recovering",
            retry_after_ms: rest.as_millis() as u64,
            holder: None,
            recovering_until: Some(Timestamp::now() + rest),
        }
    }
}

impl From<NotHeld> for NotChanged {
    fn from(reason: NotHeld) -> Self {
        Self {
            reason: match reason {
                NotHeld::Free => "not_held",
                NotHeld::HeldByAnother => "held_by_another",
            },
        }
    }
}

/// Serializes a time in UTC, always with three digits of milliseconds.
pub(super) fn rfc_3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    let mut text = String::with_capacity(32);
    match PRINTER.print_timestamp(time, &mut text) {
        Ok(()) => serializer.serialize_str(&text),
        Err(error) => Err(serde::ser::Error::custom(error)),
    }
}

/// Serializes an optional time.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
pub(super) fn optional_rfc_3339<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc_3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handwritten_json_equals_that_of_serde() {
        #[track_caller]
        fn assert_same<T: Serialize>(response: bool, more: T) {
            let answer = LockAnswer { response, name: "a \"b\"\n/ü", namespace: "public", more };
            assert_eq!(String::from_utf8(answer.json()).unwrap(), serde_json::to_string(&answer).unwrap());
        }
        let owner = Owner::parse("job-1").unwrap();
        let grant = Grant {
            fence: "1795000000000000".parse().unwrap(),
            lease: crate::lock::Lease::from_ms(60_000),
            expires_at: Timestamp::from_millisecond(1_795_000_060_000).unwrap(),
        };
        assert_same(true, Granted::new(&grant, Some(&owner)));
        assert_same(true, Granted::new(&grant, None));
        assert_same(true, Renewed::new(&grant));
        assert_same(true, NoFields {});
        assert_same(false, NotAcquired::recovering(Duration::from_secs(1)));
        assert_same(false, NotChanged::from(NotHeld::Free));
    }

    #[test]
    fn times_have_three_digits_of_milliseconds() {
        let at = |ms| {
            serde_json::to_value(Renewed {
                fencing_token: "1".parse().unwrap(),
                lease_ms: 1,
                expires_at: Timestamp::from_millisecond(ms).unwrap(),
            })
        };
        assert_eq!(at(0).unwrap()["expires_at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(at(1_795_000_060_120).unwrap()["expires_at"], "2026-11-18T11:07:40.120Z");
    }
}
