use crate::store::Shard;

/// How many of something an account has in each shard, as it was counted, and what
/// this server has added since.
#[derive(Clone)]
pub(super) struct Tally {
    of: [u64; Shard::SPREAD],
    added: u64,
    /// Asked for, and not answered yet.
    under_way: [u64; Shard::SPREAD],
}

impl Default for Tally {
    fn default() -> Self {
        Self { of: [0; Shard::SPREAD], added: 0, under_way: [0; Shard::SPREAD] }
    }
}

impl Tally {
    /// The part of what is left that a server may use before it counts anew: with
    /// so many servers all of them together use no more than that. A thousandth of
    /// what an account may have is not worth counting for.
    const UNSHARED_PART: u64 = 8;
    const NEGLIGIBLE_PART: u64 = 1000;

    pub(super) fn within(&self, shard: Shard) -> u64 {
        self.of.get(shard.number).copied().unwrap_or_default()
    }

    /// How many there are, or may be, in all other shards.
    pub(super) fn beside(&self, shard: Shard) -> u64 {
        let under_way = self.under_way.get(shard.number).copied().unwrap_or_default();
        self.all() - self.within(shard) - under_way
    }

    fn all(&self) -> u64 {
        self.of.iter().chain(&self.under_way).sum()
    }

    /// Takes what was counted in these shards for true; in others it is as before.
    pub(super) fn count(&mut self, counted: impl Iterator<Item = (Shard, u64)>) {
        self.added = 0;
        for (shard, count) in counted {
            if let Some(of) = self.of.get_mut(shard.number) {
                *of = count;
            }
        }
    }

    pub(super) fn begin(&mut self, shard: Shard) {
        if let Some(under_way) = self.under_way.get_mut(shard.number) {
            *under_way += 1;
        }
    }

    pub(super) fn end(&mut self, shard: Shard, is_added: bool) {
        if let Some(under_way) = self.under_way.get_mut(shard.number) {
            *under_way = under_way.saturating_sub(1);
        }
        if is_added && let Some(of) = self.of.get_mut(shard.number) {
            *of += 1;
            self.added += 1;
        }
    }

    /// Whether so little was added here since it was counted that other servers,
    /// which may have added as much, can hardly have used up what was left.
    pub(super) fn is_sure(&self, max: u64) -> bool {
        let all = self.of.iter().sum::<u64>();
        let left = max.saturating_sub(all.saturating_sub(self.added));
        let usable = (left / Self::UNSHARED_PART).max(max / Self::NEGLIGIBLE_PART);
        let used = self.added + self.under_way.iter().sum::<u64>();
        // Where nothing is left, the script will say so.
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
    fn what_is_under_way_counts_for_other_shards_until_it_is_answered() {
        let [a, b, c] = shards();
        let mut tally = Tally::default();
        tally.count([(a, 5), (b, 7)].into_iter());
        assert_eq!([a, b, c].map(|shard| tally.beside(shard)), [7, 5, 12]);
        tally.begin(a);
        tally.begin(a);
        assert_eq!([a, b, c].map(|shard| tally.beside(shard)), [7, 7, 14]);
        tally.end(a, true);
        tally.end(a, false);
        assert_eq!((tally.within(a), tally.beside(b)), (6, 6));
        // Where nobody could count it is as before.
        tally.count([(b, 1)].into_iter());
        assert_eq!([a, b, c].map(|shard| tally.beside(shard)), [1, 6, 7]);
    }

    #[test]
    fn eight_servers_that_count_anew_when_they_are_not_sure_stay_within_a_quota() {
        for max in [1, 10, 60, 100, 999] {
            let [a, ..] = shards();
            let mut servers: Vec<Tally> = vec![Tally::default(); 8];
            let mut held = 0;
            for turn in 0..8 * max {
                let tally = &mut servers[turn as usize % 8];
                if !tally.is_sure(max) {
                    tally.count([(a, held)].into_iter());
                }
                if tally.within(a) < max {
                    tally.begin(a);
                    held += 1;
                    tally.end(a, true);
                }
            }
            assert_eq!(held, max);
        }
    }

    #[test]
    fn a_count_is_good_for_an_eighth_of_what_is_left_or_a_thousandth_of_all() {
        let [a, ..] = shards();
        for (held, max, good_for) in [(0, 80, 10), (40, 80, 5), (76, 80, 0), (99_500, 100_000, 100)] {
            let mut tally = Tally::default();
            tally.count([(a, held)].into_iter());
            let added = (0..max).take_while(|_| {
                let is_sure = tally.is_sure(max);
                tally.end(a, true);
                is_sure
            });
            assert_eq!(added.count(), good_for, "{held} of {max}");
        }
    }
}
