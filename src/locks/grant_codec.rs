//! Decodes stored grants, in the layout that `lua/keys.lua` describes.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    lock::{FencingToken, Held, Holder, Info, Label, Note, Owner},
    store::{BadReply, Reply},
};

/// Decodes the time at `index` of a reply, in milliseconds since 1970.
pub(super) fn read_time(reply: &Reply, index: usize) -> Result<Timestamp, BadReply> {
    Timestamp::from_millisecond(reply.word(index)?).map_err(|_| reply.bad())
}

/// Decodes the tail of many replies, from `index` on: the remaining lease in ms, the expiry
/// in ms since 1970, and the grant.
pub(super) fn read_held(reply: &Reply, index: usize) -> Result<Held, BadReply> {
    let remaining = Duration::from_millis(reply.word(index)?);
    Ok(Held { holder: read_holder(reply, index + 2, index + 1)?, remaining })
}

/// The fence of a grant; `None` for a grant that its waiter has not claimed yet.
pub(super) fn fence_of(stored_grant: &str) -> Option<FencingToken> {
    let mut lines = stored_grant.split('\n').skip(2);
    let fence = fence_in(lines.next()?).parse().ok()?;
    lines.next().filter(|attempt| !attempt.starts_with('?')).map(|_| fence)
}

/// The sequence number of a grant's last journaled change; 0 for a grant that the journal
/// does not have.
pub(super) fn seq_of(stored_grant: &str) -> u64 {
    let line = stored_grant.split('\n').nth(2).unwrap_or_default();
    line.split(' ').nth(1).and_then(|seq| seq.parse().ok()).unwrap_or_default()
}

/// The first field of the fence line, see `lua/grant_codec.lua`.
fn fence_in(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// Marks a grant as held without interruption since the recovery of this epoch, as no
/// grant was lost: see `lua/regrant.lua`.
pub(super) fn mark_held_since(stored_grant: &str, epoch_us: u64) -> String {
    let mark = format!("!{epoch_us}");
    let mut fields = fields(stored_grant);
    fields[3] = &mark;
    fields.join("\n")
}

/// Decodes a grant: one field per line.
pub(super) fn read_holder(reply: &Reply, grant: usize, expires: usize) -> Result<Holder, BadReply> {
    let expires_at = read_time(reply, expires)?;
    let [account, owner, fence, _attempt, acquired_ms, label, note, info] = fields(reply.text(grant)?);
    let parsed = || {
        let fence: FencingToken = fence_in(fence).parse().ok()?;
        let acquired_ms = acquired_ms.split('@').next().unwrap_or_default();
        let acquired_ms = if acquired_ms.is_empty() { time_of(fence) } else { acquired_ms.parse().ok()? };
        Some(Holder {
            account: account.parse().ok()?,
            owner: if owner.is_empty() { None } else { Some(Owner::parse(owner).ok()?) },
            fence,
            label: Label::parse(read_acquirer(label).0).ok()?,
            note: Note::parse(note).ok()?,
            info: Info::parse(info).ok()?,
            acquired_at: Timestamp::from_millisecond(acquired_ms).ok()?,
            expires_at,
        })
    };
    parsed().ok_or_else(|| reply.bad())
}

/// Splits the label line of a grant into the label and the last digits of the id of the
/// token that acquired the lock.
pub(super) fn read_acquirer(line: &str) -> (&str, &str) {
    line.split_once('\t').unwrap_or((line, ""))
}

/// Adds the omitted fields to a grant for the journal: servers of all versions read the full
/// form. Returns a grant without a fence unchanged.
pub(super) fn full_form(stored_grant: &str) -> String {
    let mut fields = fields(stored_grant);
    let acquired_ms = fence_in(fields[2]).parse().map(|fence| time_of(fence).to_string()).unwrap_or_default();
    let with_time = format!("{acquired_ms}{}", fields[4]);
    if fields[4].is_empty() || fields[4].starts_with('@') {
        fields[4] = &with_time;
    }
    fields.join("\n")
}

/// The fields of a grant; '' for omitted ones at the end.
fn fields(stored_grant: &str) -> [&str; 8] {
    let mut lines = stored_grant.splitn(8, '\n');
    std::array::from_fn(|_| lines.next().unwrap_or_default())
}

/// The time of a grant from its fence, in milliseconds since 1970; later than the real time
/// if the store's clock was set back before the grant.
fn time_of(fence: FencingToken) -> i64 {
    fence.as_u64() as i64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omitted_fields_are_added_for_the_journal() {
        let full = "account\nana\n1767225600123456\nattempt\n1767225600123\nci\n\n";
        assert_eq!(full_form("account\nana\n1767225600123456\nattempt\n\nci"), full);
        assert_eq!(full_form(full), full);
        let later = "account\n\n1767225600123456\n\n1767225600999\nci\nnote\n{}";
        assert_eq!(full_form(later), later, "an explicit time is kept");
        let with_lease = "account\nana\n1767225600123456\nattempt\n1767225600123@300000\nci\n\n";
        assert_eq!(full_form("account\nana\n1767225600123456\nattempt\n@300000\nci"), with_lease);
        assert_eq!(full_form(with_lease), with_lease);
    }
}
