//! Closes idle connections at the connection limit. An idle connection costs its client nothing, so
//! one client could otherwise lock out all others. A connection whose answer has begun counts as
//! idle, too: a live page is closed rather than a queued request, and browsers reconnect.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use metrics::counter;

use super::timeouts::RequestCounter;
use crate::http::Connection;

/// All open connections, in the order of their acceptance.
#[derive(Default)]
pub(super) struct OpenConnections(Mutex<ConnectionTable>);

/// Registers a connection for eviction while it is idle, until dropped.
pub(super) struct EvictionGuard {
    all: Arc<OpenConnections>,
    id: u64,
}

#[derive(Default)]
struct ConnectionTable {
    next_id: u64,
    open: BTreeMap<u64, OpenConnection>,
    /// The next connections to close, so that most evictions need no scan of all connections.
    candidates: VecDeque<Candidate>,
}

struct OpenConnection {
    connection: Connection,
    requests: RequestCounter,
    is_closing: bool,
}

struct Candidate {
    id: u64,
    token_used: Option<Instant>,
}

impl OpenConnections {
    pub(super) fn add(self: &Arc<Self>, connection: Connection, requests: RequestCounter) -> EvictionGuard {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.open.insert(id, OpenConnection { connection, requests, is_closing: false });
        EvictionGuard { all: self.clone(), id }
    }

    /// Closes one idle connection: the oldest one that never had a valid token, otherwise the one
    /// whose token was used least recently. Returns false if no connection is idle.
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

    fn state(&self) -> MutexGuard<'_, ConnectionTable> {
        // No panic can leave the table in an inconsistent state, so poisoning is ignored.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionTable {
    /// Maximum number of candidates with a token: while these are closed, connections without one
    /// may arrive, which are closed first.
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

impl OpenConnection {
    fn is_idle(&self) -> bool {
        !self.is_closing && !self.requests.is_in_flight()
    }
}

impl Drop for EvictionGuard {
    fn drop(&mut self) {
        self.all.state().open.remove(&self.id);
    }
}
