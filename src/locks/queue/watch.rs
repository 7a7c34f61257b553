use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::locks::{
    Locks, LocksError,
    keys::servers_key,
    queue::registry::{QueueWatch, WaitSlot},
    requests::{Keys, LockKey, script},
};
use crate::{
    lock::{Attempt, RateCharge},
    store::{Script, Shard},
};

static POLL_QUEUE: Script = script!("poll_queue" = "keys" "entries" "queue" "poll_queue");
static SERVER_HEARTBEAT: Script = script!("server_heartbeat");

/// The state of a lock and its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueState {
    /// The lock is held.
    Held {
        /// Time until the lease expires.
        remaining: Duration,
        /// The number of queue entries.
        waiting: usize,
        /// The attempt to which the lock was handed over and that has not claimed it yet.
        to_claim: Option<String>,
    },
    /// A recovery grants nothing for this long.
    Recovering { remaining: Duration, waiting: usize },
    /// The lock is not held, and the queue is empty.
    Free,
}

impl Locks {
    /// How long a server counts as alive after a heartbeat. A dead server delays a queue by
    /// at most this and the time to claim a lock (`lua/queue.lua`): 10 s.
    const SERVER_TTL: Duration = Duration::from_secs(5);
    const SERVER_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
    /// If no server sent a heartbeat for this long, the store itself was unreachable, and
    /// no server counts as dead for it.
    const STORE_OUTAGE_AFTER: Duration = Duration::from_millis(2500);

    /// Runs the background loops until `stop`: messages to waiters, server heartbeats,
    /// recoveries, the history, and usage counts.
    pub async fn run(self, stop: CancellationToken) {
        self.start_ticking();
        let messages = self.store.subscribe(&self.channel);
        tokio::select! {
            // A fixed order keeps simulations deterministic.
            biased;
            () = self.listen(messages) => {}
            () = self.send_server_heartbeats() => {}
            () = self.run_recoveries() => {}
            () = self.write_history_forever() => {}
            () = self.count_usage_forever() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Reads the state of a queue. Hands the lock over to the first entry if its lease has
    /// expired.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn poll_queue(&self, lock: &LockKey) -> Result<QueueState, LocksError> {
        let keys = Keys::new(&self.store, &lock.to_string(), "-", &RateCharge::Done);
        let reply = self.store.eval(&POLL_QUEUE, &keys.slices(), &[]).await?;
        Ok(match reply.status() {
            "held" => {
                let to_claim = Some(reply.text(3)?.to_owned()).filter(|attempt| !attempt.is_empty());
                if reply.text(4)? == "1" {
                    Self::count_expiry("queue");
                }
                QueueState::Held { remaining: Duration::from_millis(reply.word(1)?), waiting: reply.word(2)?, to_claim }
            }
            "recovering" => {
                QueueState::Recovering { remaining: Duration::from_millis(reply.word(1)?), waiting: reply.word(2)? }
            }
            "free" => QueueState::Free,
            "busy" => Box::pin(self.poll_queue(lock)).await?,
            _ => return Err(reply.bad().into()),
        })
    }

    /// Continues the hand-over of a released lock whose queue had more dead entries than one
    /// script removes.
    pub(in crate::locks) fn poll_queue_in_background(&self, lock: LockKey) {
        let locks = self.clone();
        self.background_tasks.spawn(async move {
            if let Err(error) = locks.poll_queue(&lock).await {
                tracing::debug!(%error, "cannot hand over a released lock yet");
            }
        });
    }

    /// Sends a heartbeat of this server to a shard. Returns whether the server counted as
    /// alive before; if not, the shard may have skipped its waiters.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn send_server_heartbeat(&self, shard: Shard) -> Result<bool, LocksError> {
        let args = [
            &*self.channel,
            &Self::SERVER_TTL.as_millis().to_string(),
            &Self::STORE_OUTAGE_AFTER.as_millis().to_string(),
        ];
        let reply = self.store.eval(&SERVER_HEARTBEAT, &[&servers_key(&self.store, shard)], &args).await?;
        match reply.status() {
            "alive" => Ok(true),
            "returned" => Ok(false),
            _ => Err(reply.bad().into()),
        }
    }

    /// Registers an attempt, and spawns the poll loop of its queue if there is none.
    pub(in crate::locks) fn take_wait_slot(&self, lock: &LockKey, attempt: Attempt) -> Result<WaitSlot, LocksError> {
        let (slot, watch) = self.waiters.take(lock, &attempt.to_string()).ok_or(LocksError::Full)?;
        if let Some(watch) = watch {
            tokio::spawn(self.store.on_process(self.clone().watch_queue(watch)));
        }
        Ok(slot)
    }

    async fn listen(&self, mut messages: mpsc::Receiver<String>) {
        while let Some(message) = messages.recv().await {
            match message.strip_prefix('!') {
                None => self.waiters.wake(&message),
                Some(attempt) => self.waiters.poll_queue_of(attempt),
            }
        }
        // Only at shutdown: the store ended its subscription. Polls replace the messages.
        std::future::pending::<()>().await;
    }

    async fn send_server_heartbeats(&self) {
        join_all(self.store.shards().iter().map(|shard| self.send_server_heartbeats_to(*shard))).await;
    }

    async fn send_server_heartbeats_to(&self, shard: Shard) {
        // After an unanswered heartbeat the shard may have skipped this server's waiters.
        let mut is_sure = true;
        loop {
            match self.send_server_heartbeat(shard).await {
                Ok(was_alive) => {
                    if !(was_alive && is_sure) {
                        self.waiters.wake_all(|lock| self.store.shard_of(&lock.lock_key()) == shard);
                    }
                    is_sure = true;
                }
                Err(error) => {
                    tracing::debug!(%error, "a server heartbeat was not answered");
                    is_sure = false;
                }
            }
            sleep(Self::SERVER_HEARTBEAT_INTERVAL).await;
        }
    }

    /// Polls a queue for as long as requests of this server wait in it, which finds the
    /// hand-overs whose messages were lost.
    async fn watch_queue(self, watch: Arc<QueueWatch>) {
        while watch.wait_until_due().await {
            // Boxed: the future occupies memory only during a poll.
            match Box::pin(self.poll_queue(&watch.lock)).await {
                Ok(QueueState::Held { remaining, waiting, to_claim }) => {
                    if let Some(attempt) = &to_claim {
                        self.waiters.wake(attempt);
                    }
                    self.waiters.wake_uncounted(&watch.lock, waiting + usize::from(to_claim.is_some()));
                    watch.poll_by(Instant::now() + QueueWatch::just_after(remaining));
                }
                Ok(QueueState::Recovering { remaining, waiting }) => {
                    self.waiters.wake_uncounted(&watch.lock, waiting);
                    watch.poll_by(Instant::now() + QueueWatch::just_after(remaining));
                }
                Ok(QueueState::Free) => self.waiters.wake_uncounted(&watch.lock, 0),
                Err(error) => tracing::debug!(%error, "cannot poll a queue"),
            }
        }
    }
}
