use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::BootTime;

/// What becomes of an acquire.
#[derive(Clone, Debug)]
pub enum AcquireOutcome {
    Granted(Grant),
    Refused(Refusal),
}

/// A grant, as its holder knows it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Rises with every new grant of the lock.
    pub fencing_token: u64,
    pub lease: Duration,
    /// When it lapses unless renewed, as the server writes it.
    pub expires_at: String,
    /// When it lapses at the earliest: the lease counts from when the server had
    /// the request, and that was after it was sent.
    pub until: BootTime,
    /// Whether the owner held the lock already when it asked: the grant is an older request's.
    pub again: bool,
    /// All that the server said.
    pub answer: Value,
}

/// Why the lock was not granted.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// `held`, `timed_out`, `draining`, `recovering`, and others that may come.
    pub reason: String,
    /// When the lock can be granted at the earliest, after a loss of data.
    pub recovering_until: Option<String>,
    /// Known only when it is of the same account.
    pub holder: Option<Holder>,
    /// All that the server said.
    pub answer: Value,
}

/// Who holds a lock.
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

/// How a lock stands.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    pub name: String,
    pub namespace: String,
    pub held: bool,
    /// Known only when it is of the same account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    pub waiting: u64,
    /// Which of them the owner is who asks, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// When it can be granted at the earliest, after a loss of data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovering_until: Option<String>,
}

/// Some of the locks that an account holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Page {
    pub locks: Vec<Listed>,
    /// What to ask the next page with, if there is one.
    pub next_cursor: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Listed {
    pub name: String,
    pub namespace: String,
    pub holder: Holder,
}

/// What a token may do, and how much of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    pub plan: Plan,
    pub token: TokenInfo,
    /// The lease of a request that names none.
    #[serde(default)]
    pub lease_ms: u64,
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// The namespace of a request that names none.
    pub default_namespace: Option<String>,
    #[serde(default)]
    pub locks_held: u64,
    #[serde(default)]
    pub requests_waiting: u64,
    /// All that the server said.
    #[serde(skip)]
    pub answer: Value,
    /// When all locks can be granted again at the earliest, after a loss of data.
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
    /// `lock`, `manage`, and others that may come.
    pub scopes: Vec<String>,
}

/// Why nothing was renewed or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    Free,
    ByAnother,
}

/// An answer to a request about one lock.
pub(super) struct LockAnswer {
    all: Value,
    members: Members,
}

#[derive(Deserialize)]
struct Members {
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
    pub fn read(all: Value) -> Option<Self> {
        let members = Members::deserialize(&all).ok()?;
        Some(Self { all, members })
    }

    /// What was granted or renewed by a request that was sent at `sent`.
    pub fn grant(&self, sent: BootTime) -> Option<Grant> {
        let members = &self.members;
        let lease = Duration::from_millis(members.lease_ms.filter(|_| members.response)?);
        let expires_at = members.expires_at.clone()?;
        let fencing_token = members.fencing_token?;
        let (until, again) = (sent + lease, members.again);
        Some(Grant { fencing_token, lease, expires_at, until, again, answer: self.all.clone() })
    }

    pub fn refusal(self) -> Option<Refusal> {
        let reason = self.members.reason.clone().filter(|_| !self.members.response)?;
        let Members { holder, recovering_until, .. } = self.members;
        Some(Refusal { reason, recovering_until, holder, answer: self.all })
    }

    /// Whether it was done, or why not.
    pub fn done(&self) -> Option<Result<(), NotHeld>> {
        match (self.members.response, self.members.reason.as_deref()) {
            (true, _) => Some(Ok(())),
            (false, Some("not_held")) => Some(Err(NotHeld::Free)),
            (false, Some(_)) => Some(Err(NotHeld::ByAnother)),
            (false, None) => None,
        }
    }
}

impl Grant {
    /// The namespace that the server found the lock in.
    pub fn namespace(&self) -> &str {
        text(&self.answer, "namespace")
    }
}

impl Refusal {
    /// The namespace that the server found the lock in.
    pub fn namespace(&self) -> &str {
        text(&self.answer, "namespace")
    }
}

fn text<'a>(answer: &'a Value, member: &str) -> &'a str {
    answer.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// Why the lock was not granted, for people; the lock's name comes first.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.recovering_until, &self.holder, self.reason.as_str()) {
            (Some(until), ..) => f.write_str(&recovering(until)),
            (None, Some(holder), _) => write!(f, "is held by {holder}, until {}", clock(&holder.expires_at)),
            (None, None, "held" | "timed_out" | "draining" | "replaced") => {
                f.write_str("is held by another account, or requests before this one wait for it")
            }
            (None, None, "cancelled") => f.write_str("is not waited for any more: its owner released it"),
            (None, None, reason) => write!(f, "is not granted: {reason}"),
        }
    }
}

/// What people are told of a recovery that ends at this time, which a server wrote.
pub fn recovering(until: &str) -> String {
    let clock = until.parse::<Timestamp>().map(|until| until.strftime("%H:%M:%S UTC").to_string());
    let clock = clock.unwrap_or_else(|_| until.to_owned());
    format!("is recovering until {clock}: the servers may have lost data, and grant no lock before")
}

/// A time that a server wrote, for people: in whole seconds.
pub fn clock(time: &str) -> String {
    let clock = time.parse::<Timestamp>().map(|time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    clock.unwrap_or_else(|_| time.to_owned())
}

impl Holder {
    /// The owner, or what is known instead.
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
