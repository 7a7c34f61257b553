//! Which connections close when there are as many as there may be. An idle connection
//! costs its client nothing: whoever opens enough of them would keep everybody else out.
//! One whose answer has begun is idle, too: a live page is closed before a request that
//! waits, and browsers open it again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use metrics::counter;

use super::timeouts::Requests;
use crate::http::Connection;

/// The connections that are open, in the order in which they were accepted.
#[derive(Default)]
pub(super) struct OpenConnections(Mutex<State>);

/// A connection that may be closed while it is idle, for as long as this is kept.
pub(super) struct Evictable {
    all: Arc<OpenConnections>,
    id: u64,
}

#[derive(Default)]
struct State {
    next_id: u64,
    open: BTreeMap<u64, Entry>,
    /// Who goes next, so that not every eviction looks at all connections.
    candidates: VecDeque<Candidate>,
}

struct Entry {
    connection: Connection,
    requests: Requests,
    is_closing: bool,
}

struct Candidate {
    id: u64,
    token_used: Option<Instant>,
}

impl OpenConnections {
    pub(super) fn add(self: &Arc<Self>, connection: Connection, requests: Requests) -> Evictable {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.open.insert(id, Entry { connection, requests, is_closing: false });
        Evictable { all: self.clone(), id }
    }

    /// Closes the idle connection that is missed least: the oldest of those that never
    /// had a valid token, else the one whose token was used the longest ago. Returns
    /// whether there was one.
    pub(super) fn evict_one(&self) -> bool {
        let mut state = self.state();
        loop {
            while let Some(candidate) = state.candidates.pop_front() {
                let Some(entry) = state.open.get_mut(&candidate.id) else { continue };
                if entry.is_idle() && entry.connection.token_used() == candidate.token_used {
                    entry.is_closing = true;
                    entry.connection.shut_down();
                    counter!("lockable_connections_evicted_total").increment(1);
                    return true;
                }
            }
            if !state.find_candidates() {
                return false;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole; a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many connections with tokens are found at once: while these are closed,
    /// others without one may come, which have to go first.
    const WITH_TOKEN_MAX: usize = 16;

    fn find_candidates(&mut self) -> bool {
        let idle = self.open.iter().filter(|(_, entry)| entry.is_idle());
        let (with_token, without): (Vec<_>, Vec<_>) = idle
            .map(|(id, entry)| Candidate { id: *id, token_used: entry.connection.token_used() })
            .partition(|candidate| candidate.token_used.is_some());
        self.candidates = without.into();
        if self.candidates.is_empty() {
            let mut with_token = with_token;
            with_token.sort_unstable_by_key(|candidate| candidate.token_used);
            with_token.truncate(Self::WITH_TOKEN_MAX);
            self.candidates = with_token.into();
        }
        !self.candidates.is_empty()
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        !self.is_closing && !self.requests.is_any_in_hand()
    }
}

impl Drop for Evictable {
    fn drop(&mut self) {
        self.all.state().open.remove(&self.id);
    }
}
