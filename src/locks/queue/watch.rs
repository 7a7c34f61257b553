use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::locks::{
    Locks, LocksError,
    keys::pods_key,
    queue::registry::{Line, Seat},
    requests::{Keys, LockId, script},
};
use crate::{
    lock::{Attempt, Payment},
    store::{Script, Shard},
};

static LOOK: Script = script!("poll_queue" = "keys" "entries" "queue" "poll_queue");
static ALIVE: Script = script!("server_heartbeat");

/// How a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Somebody holds the lock.
    Held {
        /// The rest of the lease.
        rest: Duration,
        /// How many stand in line.
        waiting: usize,
        /// The attempt that has the lock to collect, if it is one.
        to_collect: Option<String>,
    },
    /// Nobody may have the lock for so long.
    Recovering { rest: Duration, waiting: usize },
    /// Nobody holds the lock, and nobody waits for it.
    Free,
}

impl Locks {
    /// For how long a server counts as there after it has said so. Together with
    /// the time to collect (`lua/queue.lua`) it is how long a dead server can
    /// hold up a line: 10 s.
    const LIFE: Duration = Duration::from_secs(5);
    const LIFE_INTERVAL: Duration = Duration::from_secs(1);
    /// Since when nobody has said so, before it was the store that was away.
    const ABSENCE: Duration = Duration::from_millis(2500);

    /// Listens to what this server is told of its waiters, says that it is there,
    /// and brings recoveries to their end, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        self.start_ticking();
        let messages = self.store.subscribe(&self.pod);
        tokio::select! {
            // In this order, for simulations that must run the same each time.
            biased;
            () = self.listen(messages) => {}
            () = self.stay_alive() => {}
            () = self.recover_always() => {}
            () = self.record_always() => {}
            () = self.count_always() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Looks after a line: hands a lock whose lease has lapsed to the first.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn look(&self, lock: &LockId) -> Result<Look, LocksError> {
        let keys = Keys::new(&self.store, &lock.to_string(), "-", &Payment::Paid);
        let reply = self.store.run(&LOOK, &keys.slices(), &[]).await?;
        Ok(match reply.status() {
            "held" => {
                let to_collect = Some(reply.text(3)?.to_owned()).filter(|attempt| !attempt.is_empty());
                if reply.text(4)? == "1" {
                    Self::count_lapse("line");
                }
                Look::Held { rest: Duration::from_millis(reply.word(1)?), waiting: reply.word(2)?, to_collect }
            }
            "recovering" => Look::Recovering { rest: Duration::from_millis(reply.word(1)?), waiting: reply.word(2)? },
            "free" => Look::Free,
            "busy" => Box::pin(self.look(lock)).await?,
            _ => return Err(reply.bad().into()),
        })
    }

    /// Goes on with handing a lock over that was released, when its queue had more in it
    /// that is gone than one script takes out.
    pub(in crate::locks) fn look_in_background(&self, lock: LockId) {
        let locks = self.clone();
        self.undo_tasks.spawn(async move {
            if let Err(error) = locks.look(&lock).await {
                tracing::debug!(%error, "a lock could not be handed over yet");
            }
        });
    }

    /// Says to a shard that this server is there. Returns whether it counted as such.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn announce(&self, shard: Shard) -> Result<bool, LocksError> {
        let args = [&*self.pod, &Self::LIFE.as_millis().to_string(), &Self::ABSENCE.as_millis().to_string()];
        let reply = self.store.run(&ALIVE, &[&pods_key(&self.store, shard)], &args).await?;
        match reply.status() {
            "alive" => Ok(true),
            "returned" => Ok(false),
            _ => Err(reply.bad().into()),
        }
    }

    /// Takes a seat for an attempt, and sees to it that its line is looked after.
    pub(in crate::locks) fn take_seat(&self, lock: &LockId, attempt: Attempt) -> Result<Seat, LocksError> {
        let (seat, line) = self.waiters.take(lock, &attempt.to_string()).ok_or(LocksError::Full)?;
        if let Some(line) = line {
            tokio::spawn(self.store.on_process(self.clone().look_after(line)));
        }
        Ok(seat)
    }

    async fn listen(&self, mut messages: mpsc::Receiver<String>) {
        while let Some(message) = messages.recv().await {
            match message.strip_prefix('!') {
                None => self.waiters.wake(&message),
                Some(attempt) => self.waiters.look(attempt),
            }
        }
        // Cannot be while the store is there; looks find everything then.
        std::future::pending::<()>().await;
    }

    async fn stay_alive(&self) {
        join_all(self.store.shards().iter().map(|shard| self.stay_alive_in(*shard))).await;
    }

    async fn stay_alive_in(&self, shard: Shard) {
        // What was said last is not known for sure when no answer came.
        let mut is_sure = true;
        loop {
            match self.announce(shard).await {
                Ok(was_alive) => {
                    if !(was_alive && is_sure) {
                        self.waiters.wake_all(|lock| self.store.shard_of(&lock.lock_key()) == shard);
                    }
                    is_sure = true;
                }
                Err(error) => {
                    tracing::debug!(%error, "the store does not know that this server is there");
                    is_sure = false;
                }
            }
            sleep(Self::LIFE_INTERVAL).await;
        }
    }

    /// Looks after a line for as long as somebody stands in it. What a message
    /// would have said is found here, too, if it was lost.
    async fn look_after(self, line: Arc<Line>) {
        while line.is_due().await {
            // Boxed, lest its room is taken for as long as nobody looks.
            match Box::pin(self.look(&line.lock)).await {
                Ok(Look::Held { rest, waiting, to_collect }) => {
                    if let Some(attempt) = &to_collect {
                        self.waiters.wake(attempt);
                    }
                    self.waiters.wake_line_beyond(&line.lock, waiting + usize::from(to_collect.is_some()));
                    line.look_by(Instant::now() + Line::just_after(rest));
                }
                Ok(Look::Recovering { rest, waiting }) => {
                    self.waiters.wake_line_beyond(&line.lock, waiting);
                    line.look_by(Instant::now() + Line::just_after(rest));
                }
                Ok(Look::Free) => self.waiters.wake_line_beyond(&line.lock, 0),
                Err(error) => tracing::debug!(%error, "a line could not be looked after"),
            }
        }
    }
}
