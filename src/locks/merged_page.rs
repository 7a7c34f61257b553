//! A page of what several shards have.

use super::{LocksError, list::Cursor};
use crate::store::Reply;

/// What a shard has of a page.
pub(super) struct Found {
    /// In their order.
    cursors: Vec<Cursor>,
    /// Up to where it has looked, unless there is nothing more.
    end: Option<Cursor>,
}

impl Found {
    pub(super) fn read(reply: &Reply) -> Result<Self, LocksError> {
        let cursor =
            |at| Ok::<_, LocksError>(Cursor { expires_ms: reply.word(at)?, lock_key: reply.text(at + 1)?.into() });
        let count = reply.texts(4).count() / 2;
        let end = if reply.text(2)?.is_empty() { None } else { Some(cursor(2)?) };
        Ok(Self { cursors: (0..count).map(|at| cursor(4 + 2 * at)).collect::<Result<_, _>>()?, end })
    }

    /// The first of what all shards have, and where to go on. A shard that has not
    /// looked to its end may have more behind that, which comes before what others
    /// have there: nothing from there on is on this page.
    pub(super) fn merge(found: Vec<Self>, limit: usize) -> (Vec<Cursor>, Option<Cursor>) {
        let end = found.iter().filter_map(|found| found.end.clone()).min();
        let mut cursors: Vec<Cursor> = found.into_iter().flat_map(|found| found.cursors).collect();
        cursors.sort_unstable();
        let seen = end.as_ref().map_or(cursors.len(), |end| cursors.partition_point(|lock_key| lock_key <= end));
        let next = if seen >= limit && cursors.len() > limit { cursors.get(limit - 1).cloned() } else { end };
        cursors.truncate(seen.min(limit));
        (cursors, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(expires_ms: u64, lock_key: &str) -> Cursor {
        Cursor { expires_ms, lock_key: lock_key.into() }
    }

    /// What shards with these locks have of a page.
    fn page(
        shards: &[&[Cursor]],
        after: Option<&Cursor>,
        limit: usize,
        looked_at: usize,
    ) -> (Vec<Cursor>, Option<Cursor>) {
        let found = shards.iter().map(|locks| {
            let behind = locks.iter().filter(|lock| after.is_none_or(|after| *lock > after)).cloned();
            let cursors: Vec<Cursor> = behind.take(limit.min(looked_at)).collect();
            let is_all = cursors.last() == locks.last() || cursors.is_empty();
            Found { end: cursors.last().cloned().filter(|_| !is_all), cursors }
        });
        Found::merge(found.collect(), limit)
    }

    #[test]
    fn a_page_that_is_just_full_is_the_last() {
        let [a, b] = ["a", "b"].map(|lock_key| [cursor(5, lock_key)]);
        let (cursors, next) = page(&[&a, &b], None, 2, 9);
        assert_eq!((cursors.len(), next), (2, None));
    }

    #[test]
    fn pages_of_several_shards_have_each_lock_once_and_in_order() {
        let a = ["a", "b", "f"].map(|lock_key| cursor(5, lock_key));
        let b = [cursor(1, "z"), cursor(5, "c"), cursor(5, "d"), cursor(5, "e"), cursor(9, "a")];
        let c = [cursor(7, "g")];
        let mut all: Vec<Cursor> = a.iter().chain(&b).chain(&c).cloned().collect();
        all.sort();
        for (limit, looked_at) in [(1, 9), (2, 9), (3, 9), (4, 2), (9, 1), (8, 8), (20, 20)] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let (cursors, next) = page(&[&a, &b, &c, &[]], after.as_ref(), limit, looked_at);
                assert!(cursors.len() <= limit);
                seen.extend(cursors);
                let Some(next) = next else { break };
                assert!(after.is_none_or(|after| after < next), "it goes on");
                after = Some(next);
            }
            assert_eq!(seen, all, "{limit}, {looked_at}");
        }
    }
}
