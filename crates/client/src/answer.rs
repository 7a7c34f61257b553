use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::BootTime;

/// The result of an acquire.
#[derive(Clone, Debug)]
pub enum AcquireOutcome {
    Granted(Grant),
    Refused(Refusal),
}

/// A grant.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Rises with every new grant of the lock.
    pub fencing_token: u64,
    pub lease: Duration,
    /// When the lease expires unless renewed, as the server wrote it.
    pub expires_at: String,
    /// The earliest time at which the lease can expire. The client counts the lease from the sending
    /// of the request; the server counts it from the arrival, which is later.
    pub until: BootTime,
    /// Whether the owner held the lock already: the grant belongs to an earlier request.
    pub again: bool,
    /// The server's whole answer.
    pub answer: Value,
}

/// Why the lock was not granted.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// `held`, `timed_out`, `draining`, `recovering`, or a reason of a later version.
    pub reason: String,
    /// When the lock can be granted at the earliest, during a recovery.
    pub recovering_until: Option<String>,
    /// Set only if the holder belongs to the same account.
    pub holder: Option<Holder>,
    /// The server's whole answer.
    pub answer: Value,
}

/// The holder of a lock.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Holder {
    pub owner: Option<String>,
    #[serde(default)]
    pub note: String,
    pub acquired_at: String,
    pub expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
}

/// The state of a lock.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    pub name: String,
    pub namespace: String,
    pub held: bool,
    /// Set only if the holder belongs to the same account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    pub waiting: u64,
    /// The queue position of the requesting owner, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// When the lock can be granted at the earliest, during a recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovering_until: Option<String>,
}

/// A page of the locks that an account holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Page {
    pub locks: Vec<ListedLock>,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ListedLock {
    pub name: String,
    pub namespace: String,
    pub holder: Holder,
}

/// The token's permissions, and the account's limits and usage.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    pub plan: Plan,
    pub token: TokenInfo,
    /// The lease of a request without one.
    #[serde(default)]
    pub lease_ms: u64,
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// The namespace of a request without one.
    pub default_namespace: Option<String>,
    #[serde(default)]
    pub locks_held: u64,
    #[serde(default)]
    pub requests_waiting: u64,
    /// The server's whole answer.
    #[serde(skip)]
    pub answer: Value,
    /// When all locks can be granted again at the earliest, during a recovery.
    pub recovering_until: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Plan {
    pub name: String,
    /// How many locks the account may hold at once.
    pub locks_max: u64,
    pub rate_per_second: u64,
    #[serde(default)]
    pub lease_max_ms: u64,
    #[serde(default)]
    pub waiting_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TokenInfo {
    pub label: String,
    /// `lock`, `manage`, or a scope of a later version.
    pub scopes: Vec<String>,
}

/// Why a lock was not renewed or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    Free,
    ByAnother,
}

/// An answer to a request about one lock.
pub(super) struct LockAnswer {
    value: Value,
    fields: LockAnswerFields,
}

#[derive(Deserialize)]
struct LockAnswerFields {
    response: bool,
    fencing_token: Option<u64>,
    lease_ms: Option<u64>,
    expires_at: Option<String>,
    #[serde(default)]
    again: bool,
    reason: Option<String>,
    holder: Option<Holder>,
    recovering_until: Option<String>,
}

impl LockAnswer {
    pub fn read(value: Value) -> Option<Self> {
        let fields = LockAnswerFields::deserialize(&value).ok()?;
        Some(Self { value, fields })
    }

    /// The grant of an acquire or a heartbeat that was sent at `sent`.
    pub fn grant(&self, sent: BootTime) -> Option<Grant> {
        let fields = &self.fields;
        let lease = Duration::from_millis(fields.lease_ms.filter(|_| fields.response)?);
        let expires_at = fields.expires_at.clone()?;
        let fencing_token = fields.fencing_token?;
        let (until, again) = (sent + lease, fields.again);
        Some(Grant { fencing_token, lease, expires_at, until, again, answer: self.value.clone() })
    }

    pub fn refusal(self) -> Option<Refusal> {
        let reason = self.fields.reason.clone().filter(|_| !self.fields.response)?;
        let LockAnswerFields { holder, recovering_until, .. } = self.fields;
        Some(Refusal { reason, recovering_until, holder, answer: self.value })
    }

    /// The result of a release or a break.
    pub fn outcome(&self) -> Option<Result<(), NotHeld>> {
        match (self.fields.response, self.fields.reason.as_deref()) {
            (true, _) => Some(Ok(())),
            (false, Some("not_held")) => Some(Err(NotHeld::Free)),
            (false, Some(_)) => Some(Err(NotHeld::ByAnother)),
            (false, None) => None,
        }
    }
}

impl Grant {
    /// The lock's namespace, as the server resolved it.
    pub fn namespace(&self) -> &str {
        text(&self.answer, "namespace")
    }
}

impl Refusal {
    /// The lock's namespace, as the server resolved it.
    pub fn namespace(&self) -> &str {
        text(&self.answer, "namespace")
    }
}

fn text<'a>(answer: &'a Value, member: &str) -> &'a str {
    answer.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// The reason as a phrase that follows the lock's name.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.recovering_until, &self.holder, self.reason.as_str()) {
            (Some(until), ..) => f.write_str(&recovering(until)),
            (None, Some(holder), _) => write!(f, "is held by {holder}, until {}", clock(&holder.expires_at)),
            (None, None, "held" | "timed_out" | "draining" | "replaced") => {
                f.write_str("is held by another account, or earlier requests are queued")
            }
            (None, None, "cancelled") => {
                f.write_str("is no longer requested: its owner cancelled the wait by a release")
            }
            (None, None, reason) => write!(f, "is not granted: {reason}"),
        }
    }
}

/// Describes a recovery that ends at `until`, a timestamp from the server.
pub fn recovering(until: &str) -> String {
    let clock = until.parse::<Timestamp>().map(|until| until.strftime("%H:%M:%S UTC").to_string());
    let clock = clock.unwrap_or_else(|_| until.to_owned());
    format!("is recovering until {clock}: Redis may have lost data, so no new lock is granted before")
}

/// Formats a timestamp from the server, in whole seconds.
pub fn clock(time: &str) -> String {
    let clock = time.parse::<Timestamp>().map(|time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    clock.unwrap_or_else(|_| time.to_owned())
}

impl Holder {
    /// The owner, or a placeholder for a grant without owner.
    pub fn name(&self) -> &str {
        self.owner.as_deref().unwrap_or("this account (no owner named)")
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        write!(f, " since {}", clock(&self.acquired_at))
    }
}
