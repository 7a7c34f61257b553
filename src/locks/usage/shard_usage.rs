use crate::store::Shard;

/// An account's number of held locks, or of queued requests, in each shard: as counted, and
/// with this server's additions since.
#[derive(Clone)]
pub(super) struct ShardUsage {
    counted: [u64; Shard::CLUSTER_COUNT],
    added: u64,
    /// Unanswered requests.
    pending: [u64; Shard::CLUSTER_COUNT],
}

impl Default for ShardUsage {
    fn default() -> Self {
        Self { counted: [0; Shard::CLUSTER_COUNT], added: 0, pending: [0; Shard::CLUSTER_COUNT] }
    }
}

impl ShardUsage {
    /// A server may use an eighth of the remaining quota before it recounts, so that up to
    /// eight servers stay within the quota. A thousandth of the quota needs no recount.
    const SERVER_PART: u64 = 8;
    const NEGLIGIBLE_PART: u64 = 1000;

    pub(super) fn in_shard(&self, shard: Shard) -> u64 {
        self.counted.get(shard.number).copied().unwrap_or_default()
    }

    /// The number in all other shards, with pending requests.
    pub(super) fn elsewhere(&self, shard: Shard) -> u64 {
        let pending = self.pending.get(shard.number).copied().unwrap_or_default();
        self.all() - self.in_shard(shard) - pending
    }

    fn all(&self) -> u64 {
        self.counted.iter().chain(&self.pending).sum()
    }

    /// Sets the counts of these shards; the other shards keep theirs.
    pub(super) fn set_counted(&mut self, counted: impl Iterator<Item = (Shard, u64)>) {
        self.added = 0;
        for (shard, count) in counted {
            if let Some(total) = self.counted.get_mut(shard.number) {
                *total = count;
            }
        }
    }

    pub(super) fn add_pending(&mut self, shard: Shard) {
        if let Some(pending) = self.pending.get_mut(shard.number) {
            *pending += 1;
        }
    }

    pub(super) fn resolve_pending(&mut self, shard: Shard, is_added: bool) {
        if let Some(pending) = self.pending.get_mut(shard.number) {
            *pending = pending.saturating_sub(1);
        }
        if is_added && let Some(count) = self.counted.get_mut(shard.number) {
            *count += 1;
            self.added += 1;
        }
    }

    /// Whether this server has added so little since the count that other servers, which may
    /// have added as much, are unlikely to have used up the remaining quota.
    pub(super) fn is_reliable(&self, max: u64) -> bool {
        let all = self.counted.iter().sum::<u64>();
        let left = max.saturating_sub(all.saturating_sub(self.added));
        let usable = (left / Self::SERVER_PART).max(max / Self::NEGLIGIBLE_PART);
        let used = self.added + self.pending.iter().sum::<u64>();
        // With nothing left, the script refuses the request.
        used < usable || all >= max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Shard;

    fn shards() -> [Shard; 3] {
        [0, 1, 2].map(|number| Shard { number, tag: "" })
    }

    #[test]
    fn pending_requests_count_in_other_shards_until_answered() {
        let [a, b, c] = shards();
        let mut usage = ShardUsage::default();
        usage.set_counted([(a, 5), (b, 7)].into_iter());
        assert_eq!([a, b, c].map(|shard| usage.elsewhere(shard)), [7, 5, 12]);
        usage.add_pending(a);
        usage.add_pending(a);
        assert_eq!([a, b, c].map(|shard| usage.elsewhere(shard)), [7, 7, 14]);
        usage.resolve_pending(a, true);
        usage.resolve_pending(a, false);
        assert_eq!((usage.in_shard(a), usage.elsewhere(b)), (6, 6));
        // A shard that was not counted keeps its count.
        usage.set_counted([(b, 1)].into_iter());
        assert_eq!([a, b, c].map(|shard| usage.elsewhere(shard)), [1, 6, 7]);
    }

    #[test]
    fn eight_servers_stay_within_the_quota() {
        for max in [1, 10, 60, 100, 999] {
            let [a, ..] = shards();
            let mut servers: Vec<ShardUsage> = vec![ShardUsage::default(); 8];
            let mut held = 0;
            for nth in 0..8 * max {
                let usage = &mut servers[nth as usize % 8];
                if !usage.is_reliable(max) {
                    usage.set_counted([(a, held)].into_iter());
                }
                if usage.in_shard(a) < max {
                    usage.add_pending(a);
                    held += 1;
                    usage.resolve_pending(a, true);
                }
            }
            assert_eq!(held, max);
        }
    }

    #[test]
    fn count_is_reliable_for_an_eighth_of_the_remainder_or_a_thousandth_of_the_quota() {
        let [a, ..] = shards();
        for (held, max, reliable_for) in [(0, 80, 10), (40, 80, 5), (76, 80, 0), (99_500, 100_000, 100)] {
            let mut usage = ShardUsage::default();
            usage.set_counted([(a, held)].into_iter());
            let added = (0..max).take_while(|_| {
                let is_reliable = usage.is_reliable(max);
                usage.resolve_pending(a, true);
                is_reliable
            });
            assert_eq!(added.count(), reliable_for, "{held} of {max}");
        }
    }
}
