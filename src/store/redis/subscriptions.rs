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

use super::{backoff::backoff, discovery::Discovery, server_info::StartError};
use crate::store::shards::LOCK_TAG;

/// The number of undelivered messages after which a subscriber misses messages.
const BACKLOG_MAX: usize = 1024;
/// The interval between pings of an idle connection, and between removals of channels without
/// subscribers.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection with the subscriptions to all channels.
pub(super) struct Subscriptions {
    listeners: Arc<Listeners>,
}

#[derive(Default)]
struct Listeners {
    channels: Mutex<HashMap<String, Vec<mpsc::Sender<String>>>>,
    added: Notify,
}

impl Subscriptions {
    pub(super) fn start(discovery: Arc<Discovery>, stop: CancellationToken) -> Self {
        let listeners = Arc::new(Listeners::default());
        let listening = listeners.clone();
        tokio::spawn(async move { stop.run_until_cancelled(listening.run(&discovery)).await });
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
    async fn run(&self, discovery: &Discovery) {
        loop {
            self.wait_for_subscriber().await;
            let mut delays = backoff();
            while let Err(error) = self.listen(discovery).await {
                tracing::debug!(%error, "lost the subscriptions to Redis; reconnecting");
                sleep(delays.next().unwrap_or_default()).await;
            }
        }
    }

    async fn wait_for_subscriber(&self) {
        while self.channels().is_empty() {
            self.added.notified().await;
        }
    }

    /// Delivers messages until there are no subscribers.
    async fn listen(&self, discovery: &Discovery) -> Result<(), StartError> {
        // Any node of a cluster works: nodes forward messages to each other.
        let located = discovery.locate(LOCK_TAG).await?;
        let (mut sink, mut messages) = located.address.connect_pubsub().await?.split();
        let mut subscribed: Vec<String> = Vec::new();
        loop {
            self.update_channels(&mut sink, &mut subscribed).await?;
            if subscribed.is_empty() {
                return Ok(());
            }
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.deliver(&message),
                    None => return Err(lost("the connection closed").into()),
                },
                () = self.added.notified() => {}
                () = sleep(PING_INTERVAL) => {
                    let pong = timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await;
                    pong.map_err(|_| lost("no reply to a ping"))??;
                }
            }
        }
    }

    /// Subscribes to new channels, and unsubscribes from channels without subscribers.
    async fn update_channels(&self, sink: &mut PubSubSink, subscribed: &mut Vec<String>) -> RedisResult<()> {
        let wanted: Vec<String> = {
            let mut channels = self.channels();
            channels.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
            channels.keys().cloned().collect()
        };
        for channel in wanted.iter().filter(|channel| !subscribed.contains(channel)) {
            sink.subscribe(channel).await?;
        }
        for channel in subscribed.iter().filter(|channel| !wanted.contains(channel)) {
            sink.unsubscribe(channel).await?;
        }
        *subscribed = wanted;
        Ok(())
    }

    fn deliver(&self, message: &Msg) {
        let Ok(text) = message.get_payload::<String>() else { return };
        if let Some(senders) = self.channels().get(message.get_channel_name()) {
            for sender in senders {
                // A full or closed receiver misses the message: messages are hints.
                let _ = sender.try_send(text.clone());
            }
        }
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<String, Vec<mpsc::Sender<String>>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost(reason: &'static str) -> redis::RedisError {
    redis::RedisError::from((redis::ErrorKind::Io, reason))
}
