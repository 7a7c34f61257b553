use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{
    Kept,
    values::{Hash, SortedSet, Stored, shrink},
};

/// Keys with their values and expiry, and who listens to which channel.
#[derive(Clone, Default)]
pub(super) struct Dataset {
    entries: HashMap<Arc<str>, Entry>,
    /// The same keys by expiry, so that what lapsed can be dropped unasked.
    expiries: BTreeSet<(u64, Arc<str>)>,
    subscribers: HashMap<String, Vec<mpsc::Sender<String>>>,
    now_us: u64,
    /// The memory that all keys and values take, as an estimate that is rather high.
    bytes: usize,
    /// The most that they may take; `None` for as much as there is.
    ceiling: Option<usize>,
    /// Whether the ceiling was exceeded when this script began.
    is_full: bool,
    /// Whether this script has written.
    has_written: bool,
}

#[derive(Clone)]
struct Entry {
    value: Stored,
    expires_ms: Option<u64>,
}

/// A command met a value of another kind than it is for.
#[derive(Debug)]
pub(super) struct WrongType;

/// A command may need memory, and there is none left.
#[derive(Debug)]
pub(super) struct Full;

impl Dataset {
    /// How many lapsed keys are dropped before each script: more than a script
    /// can make, so that nothing piles up.
    const SWEEP_MAX: usize = 20;
    /// How many before a script that comes after a pause: a server that has little to
    /// do gives back what lapsed soon. Takes less than a millisecond.
    const IDLE_SWEEP_MAX: usize = 2_000;
    const IDLE_US: u64 = 10_000;
    /// What a key takes beside its name and value: its places in both maps, with the
    /// room that they keep free.
    const KEY_BYTES: usize = 208;

    pub(super) fn set_ceiling(&mut self, bytes: usize) {
        self.ceiling = Some(bytes);
    }

    /// The memory that all keys and values take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that the script writes.
    ///
    /// # Errors
    /// As in Redis with its memory full: when the script begins with a write that may
    /// need memory. One that has begun to write may go on, since it cannot be stopped
    /// in the middle.
    pub(super) fn write(&mut self, may_need_memory: bool) -> Result<(), Full> {
        if may_need_memory && self.is_full && !self.has_written {
            return Err(Full);
        }
        self.has_written = true;
        Ok(())
    }

    /// Sets the time that the next script sees, the same from its first command
    /// to its last.
    pub(super) fn begin(&mut self, now_us: u64) {
        let is_idle = now_us.saturating_sub(self.now_us) >= Self::IDLE_US;
        self.now_us = now_us;
        self.sweep(if is_idle { Self::IDLE_SWEEP_MAX } else { Self::SWEEP_MAX });
        self.is_full = self.ceiling.is_some_and(|ceiling| self.bytes > ceiling);
        self.has_written = false;
    }

    fn sweep(&mut self, max: usize) {
        for _ in 0..max {
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

    /// The sorted set at `key`.
    pub(super) fn sorted(&mut self, key: &str) -> Result<Option<&SortedSet>, WrongType> {
        match self.live(key).map(|entry| &entry.value) {
            Some(Stored::Sorted(set)) => Ok(Some(set)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    /// Changes the sorted set at `key`; where there is none, an empty one is made if
    /// asked for.
    pub(super) fn change_sorted<T>(
        &mut self,
        key: &str,
        make: bool,
        change: impl FnOnce(&mut SortedSet) -> T,
    ) -> Result<Option<T>, WrongType> {
        if make && !self.exists(key) {
            self.set(key, Stored::Sorted(SortedSet::default()), None);
        }
        let Some(entry) = self.live(key) else { return Ok(None) };
        let Stored::Sorted(set) = &mut entry.value else { return Err(WrongType) };
        let before = set.bytes;
        let changed = change(set);
        let after = set.bytes;
        self.bytes = self.bytes - before + after;
        Ok(Some(changed))
    }

    /// The hash at `key`.
    pub(super) fn hash(&mut self, key: &str) -> Result<Option<&Hash>, WrongType> {
        match self.live(key).map(|entry| &entry.value) {
            Some(Stored::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    /// Changes the hash at `key`, as [`change_sorted`](Self::change_sorted).
    pub(super) fn change_hash<T>(
        &mut self,
        key: &str,
        make: bool,
        change: impl FnOnce(&mut Hash) -> T,
    ) -> Result<Option<T>, WrongType> {
        if make && !self.exists(key) {
            self.set(key, Stored::Hash(Hash::default()), None);
        }
        let Some(entry) = self.live(key) else { return Ok(None) };
        let Stored::Hash(hash) = &mut entry.value else { return Err(WrongType) };
        let before = hash.bytes;
        let changed = change(hash);
        let after = hash.bytes;
        self.bytes = self.bytes - before + after;
        Ok(Some(changed))
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
        self.bytes += Self::KEY_BYTES + key.len() + value.bytes();
        self.entries.insert(key, Entry { value, expires_ms });
    }

    pub(super) fn set_expiry(&mut self, key: &str, expires_ms: u64) {
        if let Some(entry) = self.remove(key) {
            self.set(key, entry, Some(expires_ms));
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Stored> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.bytes -= Self::KEY_BYTES + key.len() + entry.value.bytes();
        shrink(&mut self.entries);
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
        self.bytes = data.bytes;
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
