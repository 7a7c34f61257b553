use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::Kept;

/// Keys with their values and expiry, and who listens to which channel.
#[derive(Clone, Default)]
pub(super) struct Store {
    entries: HashMap<Arc<str>, Entry>,
    /// The same keys by expiry, so that what lapsed can be dropped unasked.
    expiries: BTreeSet<(u64, Arc<str>)>,
    subscribers: HashMap<String, Vec<mpsc::Sender<String>>>,
    now_us: u64,
}

#[derive(Clone)]
struct Entry {
    value: Stored,
    expires_ms: Option<u64>,
}

#[derive(Clone)]
pub(super) enum Stored {
    Text(String),
    Sorted(SortedSet),
    Hash(HashMap<String, String>),
}

/// Members with a score each. Scores are times in ms: whole, and exact.
#[derive(Clone, Default)]
pub(super) struct SortedSet {
    scores: HashMap<Arc<str>, i64>,
    ranks: BTreeSet<(i64, Arc<str>)>,
}

/// A command met a value of another kind than it is for.
#[derive(Debug)]
pub(super) struct WrongType;

impl Store {
    /// How many lapsed keys are dropped before each script: more than a script
    /// can make, so that nothing piles up.
    const SWEEP_MAX: usize = 20;

    /// Sets the time that the next script sees, the same from its first command
    /// to its last.
    pub(super) fn begin(&mut self, now_us: u64) {
        self.now_us = now_us;
        for _ in 0..Self::SWEEP_MAX {
            match self.expiries.first() {
                Some((expires_ms, key)) if *expires_ms < self.now_ms() => {
                    let key = key.clone();
                    self.remove(&key);
                }
                _ => break,
            }
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.now_us
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<&str>, WrongType> {
        match self.live(key).map(|entry| &entry.value) {
            Some(Stored::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    /// The keys that begin with `prefix` and have a text.
    pub(super) fn texts(&self, prefix: &str) -> Vec<Kept> {
        let live = self.entries.iter().filter(|(key, entry)| {
            key.starts_with(prefix) && entry.expires_ms.is_none_or(|expires_ms| expires_ms >= self.now_ms())
        });
        live.filter_map(|(key, entry)| match &entry.value {
            Stored::Text(value) => {
                Some(Kept { key: key.to_string(), value: value.clone(), expires_ms: entry.expires_ms })
            }
            Stored::Sorted(_) | Stored::Hash(_) => None,
        })
        .collect()
    }

    /// The sorted set at `key`; where there is none, an empty one is made if
    /// asked for.
    pub(super) fn sorted(&mut self, key: &str, make: bool) -> Result<Option<&mut SortedSet>, WrongType> {
        if make && !self.exists(key) {
            self.set(key, Stored::Sorted(SortedSet::default()), None);
        }
        match self.live(key).map(|entry| &mut entry.value) {
            Some(Stored::Sorted(set)) => Ok(Some(set)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    /// The hash at `key`; where there is none, an empty one is made if asked for.
    pub(super) fn hash(&mut self, key: &str, make: bool) -> Result<Option<&mut HashMap<String, String>>, WrongType> {
        if make && !self.exists(key) {
            self.set(key, Stored::Hash(HashMap::new()), None);
        }
        match self.live(key).map(|entry| &mut entry.value) {
            Some(Stored::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    pub(super) fn exists(&mut self, key: &str) -> bool {
        self.live(key).is_some()
    }

    /// When the key lapses: `None` without the key, `Some(None)` for never.
    pub(super) fn expiry_ms(&mut self, key: &str) -> Option<Option<u64>> {
        self.live(key).map(|entry| entry.expires_ms)
    }

    pub(super) fn set(&mut self, key: &str, value: Stored, expires_ms: Option<u64>) {
        self.remove(key);
        let key: Arc<str> = key.into();
        if let Some(expires_ms) = expires_ms {
            self.expiries.insert((expires_ms, key.clone()));
        }
        self.entries.insert(key, Entry { value, expires_ms });
    }

    pub(super) fn set_expiry(&mut self, key: &str, expires_ms: u64) {
        if let Some(entry) = self.remove(key) {
            self.set(key, entry, Some(expires_ms));
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Stored> {
        let (key, entry) = self.entries.remove_entry(key)?;
        if let Some(expires_ms) = entry.expires_ms {
            self.expiries.remove(&(expires_ms, key));
        }
        Some(entry.value)
    }

    /// Drops a sorted set or hash from which the last member has gone, as Redis
    /// does.
    pub(super) fn remove_if_empty(&mut self, key: &str) {
        let is_empty = match self.live(key).map(|entry| &entry.value) {
            Some(Stored::Sorted(set)) => set.len() == 0,
            Some(Stored::Hash(hash)) => hash.is_empty(),
            Some(Stored::Text(_)) | None => false,
        };
        if is_empty {
            self.remove(key);
        }
    }

    pub(super) fn subscribe(&mut self, channel: &str, sender: mpsc::Sender<String>) {
        self.subscribers.entry(channel.into()).or_default().push(sender);
    }

    /// Hands a message to everyone who listens and is not too far behind.
    /// Returns how many listen.
    pub(super) fn publish(&mut self, channel: &str, message: &str) -> usize {
        let Some(senders) = self.subscribers.get_mut(channel) else { return 0 };
        senders.retain(|sender| !sender.is_closed());
        for sender in senders.iter() {
            // A full or closed receiver misses the message: it is a hint.
            let _ = sender.try_send(message.to_owned());
        }
        senders.len()
    }

    /// Has the keys of another store from now on, and the same subscribers.
    #[cfg(feature = "simulation")]
    pub(super) fn replace(&mut self, data: &Self) {
        self.entries.clone_from(&data.entries);
        self.expiries.clone_from(&data.expiries);
    }

    #[cfg(feature = "simulation")]
    pub(super) fn drop_subscribers(&mut self) {
        self.subscribers.clear();
    }

    /// A key that lapsed is gone, as in Redis, from the first millisecond after
    /// the one at which it expires.
    fn live(&mut self, key: &str) -> Option<&mut Entry> {
        let now_ms = self.now_ms();
        if self.entries.get(key)?.expires_ms.is_some_and(|expires_ms| expires_ms < now_ms) {
            self.remove(key);
            return None;
        }
        self.entries.get_mut(key)
    }
}

impl SortedSet {
    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(super) fn score(&self, member: &str) -> Option<i64> {
        self.scores.get(member).copied()
    }

    /// The members from the lowest score to the highest.
    pub(super) fn ranked(&self) -> impl DoubleEndedIterator<Item = (i64, &str)> {
        self.ranks.iter().map(|(score, member)| (*score, &**member))
    }

    /// The members with at least that score, from the lowest to the highest.
    pub(super) fn from(&self, score: i64) -> impl Iterator<Item = (i64, &str)> {
        self.ranks.range((score, "".into())..).map(|(score, member)| (*score, &**member))
    }

    /// Returns whether the member is new.
    pub(super) fn put(&mut self, member: &str, score: i64) -> bool {
        let is_new = !self.remove(member);
        let member: Arc<str> = member.into();
        self.scores.insert(member.clone(), score);
        self.ranks.insert((score, member));
        is_new
    }

    pub(super) fn remove(&mut self, member: &str) -> bool {
        match self.scores.remove_entry(member) {
            Some((member, score)) => self.ranks.remove(&(score, member)),
            None => false,
        }
    }

    /// Removes every member with a score below `score`; returns how many.
    pub(super) fn remove_below(&mut self, score: i64) -> usize {
        let kept = self.ranks.split_off(&(score, "".into()));
        let gone = std::mem::replace(&mut self.ranks, kept);
        for (_, member) in &gone {
            self.scores.remove(member);
        }
        gone.len()
    }
}
