use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use redis::{Msg, RedisResult, aio::PubSubSink};
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{backoff::pauses, discovery::Locator, server_info::StartError};
use crate::store::shards::LOCK_TAG;

/// How many messages a subscriber may be behind before it misses some.
const BACKLOG_MAX: usize = 1024;
/// How often a quiet connection is asked whether it is still there, and
/// channels that nobody listens to any more are left.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection on which all channels are listened to.
pub(super) struct Subscriptions {
    listeners: Arc<Listeners>,
}

#[derive(Default)]
struct Listeners {
    channels: Mutex<HashMap<String, Vec<mpsc::Sender<String>>>>,
    added: Notify,
}

impl Subscriptions {
    pub(super) fn start(locator: Arc<Locator>, stop: CancellationToken) -> Self {
        let listeners = Arc::new(Listeners::default());
        let listening = listeners.clone();
        tokio::spawn(async move { stop.run_until_cancelled(listening.run(&locator)).await });
        Self { listeners }
    }

    pub(super) fn add(&self, channel: &str) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
        self.listeners.channels().entry(channel.into()).or_default().push(sender);
        self.listeners.added.notify_one();
        receiver
    }
}

impl Listeners {
    async fn run(&self, locator: &Locator) {
        loop {
            self.until_someone_listens().await;
            let mut pauses = pauses();
            while let Err(error) = self.listen(locator).await {
                tracing::debug!(%error, "not listening to Redis");
                sleep(pauses.next().unwrap_or_default()).await;
            }
        }
    }

    async fn until_someone_listens(&self) {
        while self.channels().is_empty() {
            self.added.notified().await;
        }
    }

    /// Listens until nobody is left to listen for.
    async fn listen(&self, locator: &Locator) -> Result<(), StartError> {
        // In a cluster any node will do: what is said to one all of them tell.
        let located = locator.locate(LOCK_TAG).await?;
        let (mut sink, mut messages) = located.address.connect_for_messages().await?.split();
        let mut joined: Vec<String> = Vec::new();
        loop {
            self.follow(&mut sink, &mut joined).await?;
            if joined.is_empty() {
                return Ok(());
            }
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.deliver(&message),
                    None => return Err(gone("the connection ended").into()),
                },
                () = self.added.notified() => {}
                () = sleep(LOOK_INTERVAL) => {
                    let pong = timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await;
                    pong.map_err(|_| gone("no answer to a ping"))??;
                }
            }
        }
    }

    /// Joins the channels that are new, and leaves those that nobody listens to.
    async fn follow(&self, sink: &mut PubSubSink, joined: &mut Vec<String>) -> RedisResult<()> {
        let wanted: Vec<String> = {
            let mut channels = self.channels();
            channels.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
            channels.keys().cloned().collect()
        };
        for channel in wanted.iter().filter(|channel| !joined.contains(channel)) {
            sink.subscribe(channel).await?;
        }
        for channel in joined.iter().filter(|channel| !wanted.contains(channel)) {
            sink.unsubscribe(channel).await?;
        }
        *joined = wanted;
        Ok(())
    }

    fn deliver(&self, message: &Msg) {
        let Ok(text) = message.get_payload::<String>() else { return };
        if let Some(senders) = self.channels().get(message.get_channel_name()) {
            for sender in senders {
                // A full or closed receiver misses the message: it is a hint.
                let _ = sender.try_send(text.clone());
            }
        }
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<String, Vec<mpsc::Sender<String>>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(reason: &'static str) -> redis::RedisError {
    redis::RedisError::from((redis::ErrorKind::Io, reason))
}
