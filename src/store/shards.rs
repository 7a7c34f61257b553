//! How the locks of a cluster are spread: each is in one of a fixed number of
//! shards, by its lock key, and each shard has a hash tag of its own. A store that
//! is no cluster has one shard, of which nobody need know.

use std::sync::LazyLock;

/// The hash tag of all locks where there is no cluster to spread them over.
pub const LOCK_TAG: &str = "0";
/// The hash tag of what is kept of accounts.
pub const ACCOUNTS_TAG: &str = "accounts";

/// How many hash slots a cluster has.
pub(super) const SLOTS: usize = 16_384;

/// A part of the locks, with the clock that fences them, its own recoveries, and
/// what belongs to these locks of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// From 0 on, without a gap.
    pub number: usize,
    /// What all of its keys have between braces.
    pub tag: &'static str,
}

impl Shard {
    /// Into how many the locks of a cluster are parted. 2, 3, 4, 6 or 8 nodes have
    /// equally many. It can never be another number: where a lock is follows from
    /// it.
    pub const SPREAD: usize = 48;

    const ONLY: Self = Self { number: 0, tag: LOCK_TAG };

    /// The one shard of a store that is no cluster.
    pub(super) fn only() -> &'static [Self] {
        &[Self::ONLY]
    }

    /// The shards of a cluster, in the order of their slots.
    pub(super) fn spread() -> &'static [Self] {
        static SPREAD: LazyLock<Vec<Shard>> = LazyLock::new(|| {
            let shards = (0..Shard::SPREAD).map(|number| Shard { number, tag: tag_within(number) });
            shards.collect()
        });
        &SPREAD
    }

    /// The shard of a lock key, or of whatever else is to be spread, among these: the
    /// one in whose range of slots Redis would put it.
    pub(super) fn of(lock_key: &str, shards: &'static [Self]) -> Self {
        match shards {
            [only] => *only,
            shards => shards.get(number_of(lock_key)).copied().unwrap_or(Self::ONLY),
        }
    }

    /// Which shard of a cluster has the keys with this tag, if it is that of one.
    pub(super) fn with_tag(tag: &str) -> Option<Self> {
        Self::spread().get(number_of(tag)).copied().filter(|shard| shard.tag == tag)
    }
}

/// The hash slot of a text, by which Redis spreads keys over nodes.
pub(super) fn slot(text: &str) -> u16 {
    crc16(text.as_bytes()) % SLOTS as u16
}

/// In which of so many equal ranges of slots a text falls.
fn number_of(text: &str) -> usize {
    usize::from(slot(text)) * Shard::SPREAD / SLOTS
}

/// The smallest number from 1 on whose slot is in that range. It is not 0, which
/// is the tag of all locks where they are not spread: nothing of theirs is to be
/// taken for that of a shard.
fn tag_within(range: usize) -> &'static str {
    let mut tags = (1_u32..).map(|number| number.to_string());
    // Kept as long as the process, which computes it once.
    tags.find(|tag| number_of(tag) == range).unwrap_or_default().leak()
}

/// CRC-16/XMODEM, which Redis Cluster is specified with.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes.iter().fold(0, |crc, byte| {
        let index = (crc >> 8) as u8 ^ byte;
        (crc << 8) ^ TABLE.get(usize::from(index)).copied().unwrap_or_default()
    })
}

#[expect(clippy::indexing_slicing, reason = "the compiler runs it, and would say so")]
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // The first is from the specification, the others from CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!([slot("0"), slot("foo"), slot("accounts"), slot("")], [13_907, 12_182, 14_365, 0]);
    }

    #[test]
    fn tags_are_evenly_spaced_and_none_is_that_of_all_locks() {
        let shards = Shard::spread();
        assert_eq!(shards.len(), 48);
        let tags: HashSet<&str> = shards.iter().map(|shard| shard.tag).collect();
        assert!(tags.len() == 48 && !tags.contains(LOCK_TAG) && !tags.contains(ACCOUNTS_TAG));
        for (number, shard) in shards.iter().enumerate() {
            let range = number * SLOTS / 48..(number + 1) * SLOTS / 48 + 1;
            assert!(shard.number == number && range.contains(&usize::from(slot(shard.tag))), "{shard:?}");
            assert_eq!(Shard::with_tag(shard.tag), Some(*shard));
        }
        for nodes in [2, 3, 4, 6, 8] {
            let node_of = |shard: &Shard| usize::from(slot(shard.tag)) * nodes / SLOTS;
            let of = |node| shards.iter().filter(|shard| node_of(shard) == node).count();
            assert!((0..nodes).all(|node| of(node) == 48 / nodes), "{nodes} nodes");
        }
        assert_eq!([LOCK_TAG, ACCOUNTS_TAG, "", "x"].map(Shard::with_tag), [None; 4]);
    }

    /// Servers of all versions must look for a lock in the same shard.
    #[test]
    fn places_have_their_shard_for_ever() {
        let tag_of = |lock_key| Shard::of(lock_key, Shard::spread()).tag;
        assert_eq!(["-/deploy", "-/état", "-/a/b"].map(tag_of), ["114", "107", "53"]);
        assert_eq!(Shard::of("-/deploy", Shard::only()), Shard::ONLY);
    }

    #[test]
    fn places_are_spread_evenly() {
        let mut counts = [0; Shard::SPREAD];
        for number in 0..48_000 {
            counts[Shard::of(&format!("-/job-{number}"), Shard::spread()).number] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
