use jiff::Timestamp;

use crate::{
    keyspace::{BadReply, Reply},
    lock::{Holder, Label, Note, Owner},
};

/// Reads the time at `index` of a reply, in milliseconds since 1970.
pub(super) fn read_time(reply: &Reply, index: usize) -> Result<Timestamp, BadReply> {
    Timestamp::from_millisecond(reply.word(index)?).map_err(|_| reply.bad())
}

/// Reads a grant as `lua/acquire.lua` writes it: one field to a line.
pub(super) fn read_holder(reply: &Reply, grant: usize, expires: usize) -> Result<Holder, BadReply> {
    let expires_at = read_time(reply, expires)?;
    let lines: Vec<&str> = reply.text(grant)?.splitn(7, '\n').collect();
    let [account, owner, fence, _attempt, acquired_ms, label, note] = lines[..] else { return Err(reply.bad()) };
    let parsed = || {
        Some(Holder {
            account: account.parse().ok()?,
            owner: if owner.is_empty() { None } else { Some(Owner::parse(owner).ok()?) },
            fence: fence.parse().ok()?,
            label: Label::parse(label).ok()?,
            note: Note::parse(note).ok()?,
            acquired_at: Timestamp::from_millisecond(acquired_ms.parse().ok()?).ok()?,
            expires_at,
        })
    };
    parsed().ok_or_else(|| reply.bad())
}
