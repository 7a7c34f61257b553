//! The threads that serve connections.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use tokio::runtime::{self, Handle};
use tokio_util::sync::CancellationToken;

/// Threads with a runtime each, between which connections are dealt out. What a
/// connection needs stays on its thread: its task, its timers, and the way to
/// Redis. That was measured to be 1.2 times as fast as one runtime that moves
/// tasks between threads.
///
/// One listener deals to them all. With a listening socket for each
/// (`SO_REUSEPORT`) the system would deal by a hash, which leaves one thread with
/// twice as much as another when connections are few and last, and closing such a
/// socket resets those that wait to be accepted.
pub struct Workers {
    all: Vec<Arc<Worker>>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// One of them.
pub(super) struct Worker {
    pub(super) runtime: Handle,
    /// How many connections it serves.
    connections: AtomicUsize,
}

/// A connection's place on a worker, for as long as it is kept.
pub(super) struct Dealt(Arc<Worker>);

impl Workers {
    /// How many sockets are looked after before Redis is sent what they asked: with
    /// more it has nothing to do meanwhile, and then the thread while it answers. With
    /// 64 connections 16 made 1.06 times as many requests a second as tokio's 1024,
    /// at the same cost; 8 made 1.09 times as many, at 1.03 times the cost.
    const EVENTS_AT_ONCE: usize = 16;

    /// Starts `count` threads.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(count: usize) -> io::Result<Self> {
        Self::start_as("worker", count)
    }

    /// Starts the thread on which the pages of accounts are made.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub(super) fn start_for_pages() -> io::Result<Self> {
        Self::start_as("pages", 1)
    }

    fn start_as(name: &str, count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut started = Self { all: Vec::new(), threads: Vec::new(), stop: stop.clone() };
        for number in 0..count {
            let runtime = runtime::Builder::new_current_thread()
                .max_io_events_per_tick(Self::EVENTS_AT_ONCE)
                .enable_all()
                .build()?;
            started.all.push(Worker::new(runtime.handle().clone()));
            let stop = stop.clone();
            let thread = thread::Builder::new().name(format!("{name}-{number}"));
            started.threads.push(thread.spawn(move || runtime.block_on(stop.cancelled()))?);
        }
        Ok(started)
    }

    /// The runtime of the caller as the only one, which goes on without this.
    pub fn here() -> Self {
        Self { all: vec![Worker::new(Handle::current())], threads: Vec::new(), stop: CancellationToken::new() }
    }

    /// The runtimes, in an order that stays.
    pub fn runtimes(&self) -> Vec<Handle> {
        self.all.iter().map(|worker| worker.runtime.clone()).collect()
    }

    /// The worker with the fewest connections.
    pub(super) fn deal(&self) -> Option<Dealt> {
        let worker = self.all.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Some(Dealt(worker.clone()))
    }

    /// Ends the threads, and with them what still runs on them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let threads = std::mem::take(&mut self.threads);
        // A thread that panicked has said so.
        let _ =
            tokio::task::spawn_blocking(|| threads.into_iter().map(JoinHandle::join).all(|ended| ended.is_ok())).await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Worker {
    fn new(runtime: Handle) -> Arc<Self> {
        Arc::new(Self { runtime, connections: AtomicUsize::new(0) })
    }
}

impl Dealt {
    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl Drop for Dealt {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_dealt_out_evenly_whichever_end() {
        let workers = Workers::start(3).unwrap();
        let mut dealt: Vec<Dealt> = (0..9).map(|_| workers.deal().unwrap()).collect();
        let counts = || workers.all.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(counts(), [3, 3, 3]);
        let first = dealt[0].0.clone();
        dealt.retain(|place| !Arc::ptr_eq(&place.0, &first));
        dealt.push(workers.deal().unwrap());
        assert!(Arc::ptr_eq(&dealt.last().unwrap().0, &first), "the one that lost its connections");
        workers.stop().await;
    }

    #[tokio::test]
    async fn each_has_a_thread_of_its_own() {
        let workers = Workers::start(2).unwrap();
        let mut names = Vec::new();
        for runtime in workers.runtimes() {
            names.push(runtime.spawn(async { thread::current().name().map(str::to_owned) }).await.unwrap().unwrap());
        }
        assert_eq!(names, ["worker-0", "worker-1"]);
        workers.stop().await;
    }
}
