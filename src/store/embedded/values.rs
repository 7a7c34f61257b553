use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// The value of a key.
#[derive(Clone)]
pub(super) enum StoredValue {
    Text(String),
    Sorted(SortedSet),
    Hash(Hash),
}

/// Members with scores. Scores are times in milliseconds: whole numbers, hence exact.
#[derive(Clone, Default)]
pub(super) struct SortedSet {
    scores: HashMap<Arc<str>, i64>,
    ranks: BTreeSet<(i64, Arc<str>)>,
    pub(super) bytes: usize,
}

/// Fields with string values.
#[derive(Clone, Default)]
pub(super) struct Hash {
    fields: HashMap<String, String>,
    pub(super) bytes: usize,
}

/// Frees capacity: a map that has shrunk to an eighth keeps twice the capacity it needs.
pub(super) fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    const ROOM_MIN: usize = 1024;
    if map.capacity() > ROOM_MIN && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

impl StoredValue {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Sorted(set) => set.bytes,
            Self::Hash(hash) => hash.bytes,
        }
    }
}

impl Hash {
    /// The memory of a field besides its name and value, in bytes.
    const FIELD_BYTES: usize = 112;

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(super) fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    /// Returns whether the field is new.
    pub(super) fn put(&mut self, field: &str, text: &str) -> bool {
        self.bytes += Self::FIELD_BYTES + field.len() + text.len();
        let before = self.fields.insert(field.into(), text.into());
        if let Some(before) = &before {
            self.bytes -= Self::FIELD_BYTES + field.len() + before.len();
        }
        before.is_none()
    }

    pub(super) fn remove(&mut self, field: &str) -> bool {
        let Some(text) = self.fields.remove(field) else { return false };
        self.bytes -= Self::FIELD_BYTES + field.len() + text.len();
        shrink(&mut self.fields);
        true
    }
}

impl SortedSet {
    /// The memory of a member besides its name, in both maps, in bytes.
    const MEMBER_BYTES: usize = 128;

    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(super) fn score(&self, member: &str) -> Option<i64> {
        self.scores.get(member).copied()
    }

    /// The members in ascending order of score.
    pub(super) fn ranked(&self) -> impl DoubleEndedIterator<Item = (i64, &str)> {
        self.ranks.iter().map(|(score, member)| (*score, &**member))
    }

    /// The members with at least this score, in ascending order.
    pub(super) fn from(&self, score: i64) -> impl Iterator<Item = (i64, &str)> {
        self.ranks.range((score, "".into())..).map(|(score, member)| (*score, &**member))
    }

    /// Returns whether the member is new.
    pub(super) fn put(&mut self, member: &str, score: i64) -> bool {
        let is_new = !self.remove(member);
        let member: Arc<str> = member.into();
        self.bytes += Self::MEMBER_BYTES + member.len();
        self.scores.insert(member.clone(), score);
        self.ranks.insert((score, member));
        is_new
    }

    pub(super) fn remove(&mut self, member: &str) -> bool {
        match self.scores.remove_entry(member) {
            Some((member, score)) => {
                self.bytes -= Self::MEMBER_BYTES + member.len();
                shrink(&mut self.scores);
                self.ranks.remove(&(score, member))
            }
            None => false,
        }
    }

    /// Removes all members with a score below `score`. Returns their number.
    pub(super) fn remove_below(&mut self, score: i64) -> usize {
        let retained = self.ranks.split_off(&(score, "".into()));
        let removed = std::mem::replace(&mut self.ranks, retained);
        for (_, member) in &removed {
            self.bytes -= Self::MEMBER_BYTES + member.len();
            self.scores.remove(member);
        }
        shrink(&mut self.scores);
        removed.len()
    }
}
