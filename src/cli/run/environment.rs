use crate::{cli::enclosing, client::Lock};

/// The variables that the command finds. None of them is a setting of `lockable` itself, so
/// that a `lockable` within the command has the settings of the one around it, and no others.
pub(super) fn environment(name: &str, lock: &Lock) -> Vec<(String, String)> {
    [
        ("LOCKABLE_LOCK", name.to_owned()),
        ("LOCKABLE_FENCING_TOKEN", lock.fencing_token().to_string()),
        ("LOCKABLE_HOLDER", lock.owner().unwrap_or_default().to_owned()),
        ("LOCKABLE_EXPIRES_AT", lock.grant().expires_at),
        (enclosing::VARIABLE, enclosing::Enclosing::of_this_process().with(lock, name)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
