//! Merges the pages of several shards.

use super::{LocksError, list::Cursor};
use crate::store::Reply;

/// One shard's part of a page.
pub(super) struct ShardPage {
    /// Sorted.
    cursors: Vec<Cursor>,
    /// The last position scanned; `None` at the end of the index.
    end: Option<Cursor>,
}

impl ShardPage {
    pub(super) fn read(reply: &Reply) -> Result<Self, LocksError> {
        let cursor =
            |at| Ok::<_, LocksError>(Cursor { expires_ms: reply.word(at)?, lock_key: reply.text(at + 1)?.into() });
        let count = reply.texts(4).count() / 2;
        let end = if reply.text(2)?.is_empty() { None } else { Some(cursor(2)?) };
        Ok(Self { cursors: (0..count).map(|at| cursor(4 + 2 * at)).collect::<Result<_, _>>()?, end })
    }

    /// Merges the parts of all shards into one page and the cursor of the next. A shard that
    /// has not scanned its whole index may have more locks after its last scanned position,
    /// so the page ends at the first such position.
    pub(super) fn merge(found: Vec<Self>, limit: usize) -> (Vec<Cursor>, Option<Cursor>) {
        let end = found.iter().filter_map(|found| found.end.clone()).min();
        let mut cursors: Vec<Cursor> = found.into_iter().flat_map(|found| found.cursors).collect();
        cursors.sort_unstable();
        let complete = end.as_ref().map_or(cursors.len(), |end| cursors.partition_point(|cursor| cursor <= end));
        let next = if complete >= limit && cursors.len() > limit { cursors.get(limit - 1).cloned() } else { end };
        cursors.truncate(complete.min(limit));
        (cursors, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(expires_ms: u64, lock_key: &str) -> Cursor {
        Cursor { expires_ms, lock_key: lock_key.into() }
    }

    /// The page after `after` of shards with these locks.
    fn page(
        shards: &[&[Cursor]],
        after: Option<&Cursor>,
        limit: usize,
        scanned: usize,
    ) -> (Vec<Cursor>, Option<Cursor>) {
        let found = shards.iter().map(|locks| {
            let following = locks.iter().filter(|lock| after.is_none_or(|after| *lock > after)).cloned();
            let cursors: Vec<Cursor> = following.take(limit.min(scanned)).collect();
            let is_all = cursors.last() == locks.last() || cursors.is_empty();
            ShardPage { end: cursors.last().cloned().filter(|_| !is_all), cursors }
        });
        ShardPage::merge(found.collect(), limit)
    }

    #[test]
    fn exactly_full_page_has_no_next_cursor() {
        let [a, b] = ["a", "b"].map(|lock_key| [cursor(5, lock_key)]);
        let (cursors, next) = page(&[&a, &b], None, 2, 9);
        assert_eq!((cursors.len(), next), (2, None));
    }

    #[test]
    fn merged_pages_contain_every_lock_once_in_order() {
        let a = ["a", "b", "f"].map(|lock_key| cursor(5, lock_key));
        let b = [cursor(1, "z"), cursor(5, "c"), cursor(5, "d"), cursor(5, "e"), cursor(9, "a")];
        let c = [cursor(7, "g")];
        let mut all: Vec<Cursor> = a.iter().chain(&b).chain(&c).cloned().collect();
        all.sort();
        for (limit, scanned) in [(1, 9), (2, 9), (3, 9), (4, 2), (9, 1), (8, 8), (20, 20)] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let (cursors, next) = page(&[&a, &b, &c, &[]], after.as_ref(), limit, scanned);
                assert!(cursors.len() <= limit);
                seen.extend(cursors);
                let Some(next) = next else { break };
                assert!(after.is_none_or(|after| after < next), "the cursor advances");
                after = Some(next);
            }
            assert_eq!(seen, all, "{limit}, {scanned}");
        }
    }
}
