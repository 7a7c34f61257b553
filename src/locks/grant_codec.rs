use std::time::Duration;

use jiff::Timestamp;

use crate::{
    lock::{FencingToken, Held, Holder, Info, Label, Note, Owner},
    store::{BadReply, Reply},
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
pub(super) fn fence_of(record: &str) -> Option<FencingToken> {
    let mut lines = record.split('\n').skip(2);
    let fence = fence_in(lines.next()?).parse().ok()?;
    lines.next().filter(|attempt| !attempt.starts_with('?')).map(|_| fence)
}

/// The number of the last change of a grant that the journal was to record; 0 for a
/// grant that it does not know.
pub(super) fn seq_of(record: &str) -> u64 {
    let line = record.split('\n').nth(2).unwrap_or_default();
    line.split(' ').nth(1).and_then(|seq| seq.parse().ok()).unwrap_or_default()
}

/// The fence in the line that names it first, see `lua/grant_codec.lua`.
fn fence_in(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// A grant whose holder is known to have held it since the recovery that begins with
/// this epoch, as nothing was lost: see `lua/regrant.lua`.
pub(super) fn held_since(record: &str, epoch_us: u64) -> String {
    let mark = format!("!{epoch_us}");
    let mut fields = fields(record);
    fields[3] = &mark;
    fields.join("\n")
}

/// Reads a grant as `lua/keys.lua` describes it: one field to a line.
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

/// The label and the end of the id of the token that acquired a lock, from the line that has
/// both.
pub(super) fn read_acquirer(line: &str) -> (&str, &str) {
    line.split_once('\t').unwrap_or((line, ""))
}

/// A grant with nothing left out, as it is written down: servers of all versions
/// read that. As it is when it has no fence.
pub(super) fn in_full(record: &str) -> String {
    let mut fields = fields(record);
    let acquired_ms = fence_in(fields[2]).parse().map(|fence| time_of(fence).to_string()).unwrap_or_default();
    let with_time = format!("{acquired_ms}{}", fields[4]);
    if fields[4].is_empty() || fields[4].starts_with('@') {
        fields[4] = &with_time;
    }
    fields.join("\n")
}

/// The fields of a grant; '' for those at the end that were left out.
fn fields(record: &str) -> [&str; 8] {
    let mut lines = record.splitn(8, '\n');
    std::array::from_fn(|_| lines.next().unwrap_or_default())
}

/// When a fence was given, in milliseconds since 1970, unless the clock was ahead.
fn time_of(fence: FencingToken) -> i64 {
    fence.as_u64() as i64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_a_grant_is_written_down() {
        let full = "account\nana\n1767225600123456\nattempt\n1767225600123\nci\n\n";
        assert_eq!(in_full("account\nana\n1767225600123456\nattempt\n\nci"), full);
        assert_eq!(in_full(full), full);
        let later = "account\n\n1767225600123456\n\n1767225600999\nci\nnote\n{}";
        assert_eq!(in_full(later), later, "a time of its own stays");
        let with_lease = "account\nana\n1767225600123456\nattempt\n1767225600123@300000\nci\n\n";
        assert_eq!(in_full("account\nana\n1767225600123456\nattempt\n@300000\nci"), with_lease);
        assert_eq!(in_full(with_lease), with_lease);
    }
}
