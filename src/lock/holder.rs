use jiff::Timestamp;

use super::{AccountId, FencingToken, Info, Label, Lease, Note, Owner};

/// A successful acquire or renewal, as returned to its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub fence: FencingToken,
    pub lease: Lease,
    /// The expiry of the lease, by the store's clock.
    pub expires_at: Timestamp,
}

/// The holder of a lock, with the details of the grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub account: AccountId,
    pub owner: Option<Owner>,
    pub fence: FencingToken,
    /// The label of the token with which the lock was acquired.
    pub label: Label,
    pub note: Note,
    /// The text of a program, shown to rejected callers of the same account.
    pub info: Info,
    pub acquired_at: Timestamp,
    pub expires_at: Timestamp,
}
