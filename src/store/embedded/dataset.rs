use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{
    TextEntry,
    values::{Hash, SortedSet, StoredValue, shrink},
};

/// The keys with their values and expiry, and the subscribers of each channel.
#[derive(Clone, Default)]
pub(super) struct Dataset {
    entries: HashMap<Arc<str>, Entry>,
    /// The keys by expiry, for the removal of expired keys.
    expiries: BTreeSet<(u64, Arc<str>)>,
    subscribers: HashMap<String, Vec<mpsc::Sender<String>>>,
    now_us: u64,
    /// The estimated memory of all keys and values; an upper bound.
    bytes: usize,
    /// The limit of `bytes`; `None` for no limit.
    memory_limit: Option<usize>,
    /// Whether `bytes` exceeded the limit when the current script began.
    is_full: bool,
    /// Whether the current script has written.
    has_written: bool,
}

#[derive(Clone)]
struct Entry {
    value: StoredValue,
    expires_ms: Option<u64>,
}

/// The key has a value of another type.
#[derive(Debug)]
pub(super) struct WrongType;

/// The memory limit is reached, and the command may need memory.
#[derive(Debug)]
pub(super) struct MemoryFull;

impl Dataset {
    /// The number of expired keys to remove before each script: more than a script can create, so
    /// that expired keys do not accumulate.
    const SWEEP_MAX: usize = 20;
    /// The number after an idle time: an idle server soon frees the memory of expired keys. The
    /// removal takes less than a millisecond.
    const IDLE_SWEEP_MAX: usize = 2_000;
    const IDLE_US: u64 = 10_000;
    /// The memory of a key besides its name and value: its entries in both maps, with their free
    /// capacity.
    const KEY_BYTES: usize = 208;

    pub(super) fn set_memory_limit(&mut self, bytes: usize) {
        self.memory_limit = Some(bytes);
    }

    /// The memory of all keys and values, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records that the script writes.
    ///
    /// # Errors
    /// When the limit is reached and the script's first write may need memory, as in Redis. A
    /// script that has written may continue, since scripts are atomic.
    pub(super) fn write(&mut self, may_need_memory: bool) -> Result<(), MemoryFull> {
        if may_need_memory && self.is_full && !self.has_written {
            return Err(MemoryFull);
        }
        self.has_written = true;
        Ok(())
    }

    /// Begins a script. The script sees this time until its end.
    pub(super) fn begin(&mut self, now_us: u64) {
        let is_idle = now_us.saturating_sub(self.now_us) >= Self::IDLE_US;
        self.now_us = now_us;
        self.sweep(if is_idle { Self::IDLE_SWEEP_MAX } else { Self::SWEEP_MAX });
        self.is_full = self.memory_limit.is_some_and(|memory_limit| self.bytes > memory_limit);
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
        match self.unexpired(key).map(|entry| &entry.value) {
            Some(StoredValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    /// The string keys with this prefix.
    pub(super) fn texts(&self, prefix: &str) -> Vec<TextEntry> {
        let live = self.entries.iter().filter(|(key, entry)| {
            key.starts_with(prefix) && entry.expires_ms.is_none_or(|expires_ms| expires_ms >= self.now_ms())
        });
        live.filter_map(|(key, entry)| match &entry.value {
            StoredValue::Text(value) => {
                Some(TextEntry { key: key.to_string(), value: value.clone(), expires_ms: entry.expires_ms })
            }
            StoredValue::Sorted(_) | StoredValue::Hash(_) => None,
        })
        .collect()
    }

    /// The sorted set at `key`.
    pub(super) fn sorted(&mut self, key: &str) -> Result<Option<&SortedSet>, WrongType> {
        match self.unexpired(key).map(|entry| &entry.value) {
            Some(StoredValue::Sorted(set)) => Ok(Some(set)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    /// Changes the sorted set at `key`. With `make`, creates a missing one.
    pub(super) fn change_sorted<T>(
        &mut self,
        key: &str,
        make: bool,
        change: impl FnOnce(&mut SortedSet) -> T,
    ) -> Result<Option<T>, WrongType> {
        if make && !self.exists(key) {
            self.set(key, StoredValue::Sorted(SortedSet::default()), None);
        }
        let Some(entry) = self.unexpired(key) else { return Ok(None) };
        let StoredValue::Sorted(set) = &mut entry.value else { return Err(WrongType) };
        let before = set.bytes;
        let changed = change(set);
        let after = set.bytes;
        self.bytes = self.bytes - before + after;
        Ok(Some(changed))
    }

    /// The hash at `key`.
    pub(super) fn hash(&mut self, key: &str) -> Result<Option<&Hash>, WrongType> {
        match self.unexpired(key).map(|entry| &entry.value) {
            Some(StoredValue::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(WrongType),
            None => Ok(None),
        }
    }

    /// Changes the hash at `key`, like [`change_sorted`](Self::change_sorted).
    pub(super) fn change_hash<T>(
        &mut self,
        key: &str,
        make: bool,
        change: impl FnOnce(&mut Hash) -> T,
    ) -> Result<Option<T>, WrongType> {
        if make && !self.exists(key) {
            self.set(key, StoredValue::Hash(Hash::default()), None);
        }
        let Some(entry) = self.unexpired(key) else { return Ok(None) };
        let StoredValue::Hash(hash) = &mut entry.value else { return Err(WrongType) };
        let before = hash.bytes;
        let changed = change(hash);
        let after = hash.bytes;
        self.bytes = self.bytes - before + after;
        Ok(Some(changed))
    }

    pub(super) fn exists(&mut self, key: &str) -> bool {
        self.unexpired(key).is_some()
    }

    /// The expiry of a key: `None` for a missing key, `Some(None)` for a key without expiry.
    pub(super) fn expiry_ms(&mut self, key: &str) -> Option<Option<u64>> {
        self.unexpired(key).map(|entry| entry.expires_ms)
    }

    pub(super) fn set(&mut self, key: &str, value: StoredValue, expires_ms: Option<u64>) {
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

    pub(super) fn remove(&mut self, key: &str) -> Option<StoredValue> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.bytes -= Self::KEY_BYTES + key.len() + entry.value.bytes();
        shrink(&mut self.entries);
        if let Some(expires_ms) = entry.expires_ms {
            self.expiries.remove(&(expires_ms, key));
        }
        Some(entry.value)
    }

    /// Removes a key whose sorted set or hash is empty, like Redis.
    pub(super) fn remove_if_empty(&mut self, key: &str) {
        let is_empty = match self.unexpired(key).map(|entry| &entry.value) {
            Some(StoredValue::Sorted(set)) => set.len() == 0,
            Some(StoredValue::Hash(hash)) => hash.is_empty(),
            Some(StoredValue::Text(_)) | None => false,
        };
        if is_empty {
            self.remove(key);
        }
    }

    pub(super) fn subscribe(&mut self, channel: &str, sender: mpsc::Sender<String>) {
        self.subscribers.entry(channel.into()).or_default().push(sender);
    }

    /// Sends a message to the subscribers of a channel. Returns their number.
    pub(super) fn publish(&mut self, channel: &str, message: &str) -> usize {
        let Some(senders) = self.subscribers.get_mut(channel) else { return 0 };
        senders.retain(|sender| !sender.is_closed());
        for sender in senders.iter() {
            // A full or closed receiver misses the message: messages are hints.
            let _ = sender.try_send(message.to_owned());
        }
        senders.len()
    }

    /// Replaces the keys and keeps the subscribers.
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

    /// The entry of a key that has not expired. As in Redis, a key is gone from the first
    /// millisecond after its expiry.
    fn unexpired(&mut self, key: &str) -> Option<&mut Entry> {
        let now_ms = self.now_ms();
        if self.entries.get(key)?.expires_ms.is_some_and(|expires_ms| expires_ms < now_ms) {
            self.remove(key);
            return None;
        }
        self.entries.get_mut(key)
    }
}
