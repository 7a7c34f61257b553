use std::{borrow::Cow, time::Duration};

use lockable_client::{Error, LockRequest, parse_address};
use lockable_protocol::{
    DurationError, LockName, Note, Owner, PUBLIC_NAMESPACE, check_namespace_name, is_unprintable, parse_duration_ms,
};

/// A lock key.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LockNameArgs {
    /// The lock's name
    #[arg(value_parser = lock_name)]
    pub name: String,

    /// The lock's namespace [default: the token's]
    #[arg(long, env = "LOCKABLE_NAMESPACE", value_parser = namespace)]
    pub namespace: Option<String>,
}

/// A lock key and an owner.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LockOwnerArgs {
    #[command(flatten)]
    pub lock: LockNameArgs,

    /// The holder's name within the account; without it, all processes of the account are one holder
    #[arg(long, env = "LOCKABLE_OWNER", value_parser = owner)]
    pub owner: Option<String>,
}

/// The lease and the note of a grant.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GrantArgs {
    /// The lease: the lock is released unless a heartbeat arrives within this time [default: the account's lease]
    #[arg(long, env = "LOCKABLE_LEASE", value_parser = duration, value_name = "DURATION")]
    pub lease: Option<Duration>,

    /// Text shown to callers of the same account while the lock is held
    #[arg(long, env = "LOCKABLE_NOTE", value_parser = note)]
    pub note: Option<String>,
}

impl LockNameArgs {
    /// # Errors
    /// When the name is invalid.
    pub fn request(&self) -> Result<LockRequest, Error> {
        let request = LockRequest::new(&self.name)?;
        Ok(match &self.namespace {
            Some(namespace) => request.namespace(namespace),
            None => request,
        })
    }
}

impl LockOwnerArgs {
    /// # Errors
    /// When the name or the owner is invalid.
    pub fn request(&self) -> Result<LockRequest, Error> {
        let request = self.lock.request()?;
        match &self.owner {
            Some(owner) => request.owner(owner),
            None => Ok(request),
        }
    }
}

impl GrantArgs {
    pub fn apply(&self, mut request: LockRequest) -> LockRequest {
        if let Some(lease) = self.lease {
            request = request.lease(lease);
        }
        if let Some(note) = &self.note {
            request = request.note(note);
        }
        request
    }
}

/// Parses a duration: the API's format, decimal seconds as in `flock` and `sleep`, and units in
/// words.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "sec" | "secs" | "second" | "seconds" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        unit => unit,
    };
    let number = match number.strip_prefix('.') {
        Some(decimals) => Cow::from(format!("0.{decimals}")),
        None => Cow::from(number),
    };
    parse_duration_ms(&format!("{number}{unit}")).map(Duration::from_millis).map_err(|error| match error {
        DurationError::Malformed => {
            "a duration is a number of seconds (90, 0.5) or a number with a unit (500ms, 90s, 10min, 2h, 1d)".to_owned()
        }
        error => error.to_string(),
    })
}

pub(super) fn lock_name(text: &str) -> Result<String, String> {
    LockName::parse(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

pub(super) fn owner(text: &str) -> Result<String, String> {
    match Owner::parse(text) {
        Ok(owner) => Ok(owner.as_str().to_owned()),
        Err(_) if text.contains(char::is_whitespace) => Err("an owner cannot contain white space".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
    match check_namespace_name(text) {
        Err(error) if text != PUBLIC_NAMESPACE => Err(error.to_string()),
        _ => Ok(text.to_owned()),
    }
}

/// Turns any text into a note. Unprintable characters become spaces and excess bytes are cut, so
/// that a deployment does not fail because of the commit subject in its note.
#[expect(clippy::unnecessary_wraps, reason = "clap expects a fallible parser")]
pub(super) fn note(text: &str) -> Result<String, String> {
    let mut note: String = text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect();
    while note.len() > Note::BYTES_MAX {
        note.pop();
    }
    Ok(note)
}

pub(super) fn address(text: &str) -> Result<String, String> {
    parse_address(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_accept_decimals_and_units_in_words() {
        for (text, ms) in [
            ("90", 90_000),
            ("0.5", 500),
            (".5", 500),
            ("1.5", 1500),
            ("500ms", 500),
            ("90s", 90_000),
            ("90sec", 90_000),
            ("10min", 600_000),
            ("1.5hours", 5_400_000),
            ("1d", 86_400_000),
            ("2days", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", ".", "s", "soon", "5 min", "1h30m", "-1", "1..5", "5 fortnights", "1.5ms", "9999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
