use jiff::Timestamp;

use super::{AccountId, FencingToken, Info, Label, Lease, Note, Owner};

/// What a caller was given: one successful acquire, or its renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub fence: FencingToken,
    pub lease: Lease,
    /// When the lease lapses, by Redis's clock.
    pub expires_at: Timestamp,
}

/// Who holds a lock, and what is known of the grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub account: AccountId,
    pub owner: Option<Owner>,
    pub fence: FencingToken,
    /// The label of the token with which the lock was acquired.
    pub label: Label,
    pub note: Note,
    /// What a program wants those to see who are refused.
    pub info: Info,
    pub acquired_at: Timestamp,
    pub expires_at: Timestamp,
}
