//! Shards of a cluster. Each lock is in one of a fixed number of shards, selected by its lock
//! key. Each shard has its own hash tag. A store that is not a cluster has one shard.

use std::sync::LazyLock;

/// The hash tag of all locks outside a cluster.
pub const LOCK_TAG: &str = "0";
/// The hash tag of cached accounts.
pub const ACCOUNTS_TAG: &str = "accounts";

/// The number of hash slots of a Redis cluster.
pub(super) const SLOTS: usize = 16_384;

/// A part of the locks, with its own clock for fencing tokens, its own recoveries, and its own
/// part of each account's usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// From 0 on, without gaps.
    pub number: usize,
    /// The hash tag of all keys of the shard.
    pub tag: &'static str,
}

impl Shard {
    /// The number of shards of a cluster: 2, 3, 4, 6 or 8 nodes have equally many. It can never
    /// change, since it determines the shard of each lock.
    pub const CLUSTER_COUNT: usize = 48;

    const SINGLE: Self = Self { number: 0, tag: LOCK_TAG };

    /// The only shard of a store that is not a cluster.
    pub(super) fn single() -> &'static [Self] {
        &[Self::SINGLE]
    }

    /// The shards of a cluster, in the order of their slots.
    pub(super) fn of_cluster() -> &'static [Self] {
        static SHARDS: LazyLock<Vec<Shard>> = LazyLock::new(|| {
            let shards = (0..Shard::CLUSTER_COUNT).map(|number| Shard { number, tag: tag_within(number) });
            shards.collect()
        });
        &SHARDS
    }

    /// The shard of a lock key, or of other distributed data, among `shards`: the shard whose
    /// range of hash slots contains the slot of the key.
    pub(super) fn of(lock_key: &str, shards: &'static [Self]) -> Self {
        match shards {
            [only] => *only,
            shards => shards.get(shard_number(lock_key)).copied().unwrap_or(Self::SINGLE),
        }
    }

    /// The shard of a cluster with this hash tag.
    pub(super) fn with_tag(tag: &str) -> Option<Self> {
        Self::of_cluster().get(shard_number(tag)).copied().filter(|shard| shard.tag == tag)
    }
}

/// The Redis hash slot of a text.
pub(super) fn slot(text: &str) -> u16 {
    crc16(text.as_bytes()) % SLOTS as u16
}

/// The number of the shard whose range of slots contains the slot of a text.
fn shard_number(text: &str) -> usize {
    usize::from(slot(text)) * Shard::CLUSTER_COUNT / SLOTS
}

/// The smallest number from 1 on whose slot is in the range. Not 0, which is [`LOCK_TAG`]: the
/// keys of a shard must differ from the keys of a store without shards.
fn tag_within(range: usize) -> &'static str {
    let mut tags = (1_u32..).map(|number| number.to_string());
    // Leaked once: the shards live as long as the process.
    tags.find(|tag| shard_number(tag) == range).unwrap_or_default().leak()
}

/// CRC-16/XMODEM, as the Redis Cluster specification requires.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes.iter().fold(0, |crc, byte| {
        let index = (crc >> 8) as u8 ^ byte;
        (crc << 8) ^ TABLE.get(usize::from(index)).copied().unwrap_or_default()
    })
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where an overflow is an error")]
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
    fn slots_match_redis() {
        // The first is from the specification, the others are from CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!([slot("0"), slot("foo"), slot("accounts"), slot("")], [13_907, 12_182, 14_365, 0]);
    }

    #[test]
    fn tags_are_evenly_spaced_and_reserve_other_tags() {
        let shards = Shard::of_cluster();
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

    /// Servers of all versions must map a lock to the same shard.
    #[test]
    fn lock_keys_keep_their_shard() {
        let tag_of = |lock_key| Shard::of(lock_key, Shard::of_cluster()).tag;
        assert_eq!(["-/deploy", "-/état", "-/a/b"].map(tag_of), ["114", "107", "53"]);
        assert_eq!(Shard::of("-/deploy", Shard::single()), Shard::SINGLE);
    }

    #[test]
    fn lock_keys_are_distributed_evenly() {
        let mut counts = [0; Shard::CLUSTER_COUNT];
        for number in 0..48_000 {
            counts[Shard::of(&format!("-/job-{number}"), Shard::of_cluster()).number] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
