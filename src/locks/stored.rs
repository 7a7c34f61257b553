use std::time::Duration;

use jiff::Timestamp;

use crate::{
    keyspace::{BadReply, Reply},
    lock::{Fence, Held, Holder, Info, Label, Note, Owner},
};

/// Reads the time at `index` of a reply, in milliseconds since 1970.
pub(super) fn read_time(reply: &Reply, index: usize) -> Result<Timestamp, BadReply> {
    Timestamp::from_millisecond(reply.word(index)?).map_err(|_| reply.bad())
}

/// Reads what many replies end with, beginning at `index`: the rest of the lease
/// in ms, the time at which it lapses, and the grant.
pub(super) fn read_held(reply: &Reply, index: usize) -> Result<Held, BadReply> {
    let rest = Duration::from_millis(reply.word(index)?);
    Ok(Held { holder: read_holder(reply, index + 2, index + 1)?, rest })
}

/// The fence of a grant; none for one that has yet to be collected.
pub(super) fn fence_of(record: &str) -> Option<Fence> {
    let mut lines = record.split('\n').skip(2);
    let fence = lines.next()?.parse().ok()?;
    lines.next().filter(|attempt| !attempt.starts_with('?')).map(|_| fence)
}

/// Reads a grant as `lua/keys.lua` describes it: one field to a line.
pub(super) fn read_holder(reply: &Reply, grant: usize, expires: usize) -> Result<Holder, BadReply> {
    let expires_at = read_time(reply, expires)?;
    let lines: Vec<&str> = reply.text(grant)?.splitn(8, '\n').collect();
    let [account, owner, fence, _attempt, acquired_ms, label, note, info] = lines[..] else { return Err(reply.bad()) };
    let parsed = || {
        Some(Holder {
            account: account.parse().ok()?,
            owner: if owner.is_empty() { None } else { Some(Owner::parse(owner).ok()?) },
            fence: fence.parse().ok()?,
            label: Label::parse(label).ok()?,
            note: Note::parse(note).ok()?,
            info: Info::parse(info).ok()?,
            acquired_at: Timestamp::from_millisecond(acquired_ms.parse().ok()?).ok()?,
            expires_at,
        })
    };
    parsed().ok_or_else(|| reply.bad())
}
