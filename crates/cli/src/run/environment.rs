use lockable_client::LockGuard;

use crate::enclosing;

/// The variables for the command. None of them is a setting of `lockable`, so a nested `lockable`
/// uses the settings of the outer one.
pub(super) fn environment(name: &str, lock: &LockGuard) -> Vec<(String, String)> {
    [
        ("LOCKABLE_LOCK", name.to_owned()),
        ("LOCKABLE_FENCING_TOKEN", lock.fencing_token().to_string()),
        ("LOCKABLE_HOLDER", lock.owner().unwrap_or_default().to_owned()),
        ("LOCKABLE_EXPIRES_AT", lock.grant().expires_at),
        (enclosing::VARIABLE, enclosing::EnclosingRuns::of_this_process().with(lock, name)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
