use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use crate::lock::AccountId;

/// The accounts with subscribers among the requests of this server.
#[derive(Default)]
pub(super) struct AccountSubscriptions(Mutex<HashMap<AccountId, Topic>>);

/// The change counter of an account, and the number of its subscribers.
struct Topic {
    feed: Arc<Feed>,
    subscribers: usize,
}

#[derive(Default)]
struct Feed {
    /// Counts the changes of the account.
    changes: AtomicU64,
    changed: Notify,
}

/// A request's subscription to the changes of its account. It ends when it is dropped.
pub struct Subscription {
    subscriptions: Arc<AccountSubscriptions>,
    account: AccountId,
    feed: Arc<Feed>,
}

impl AccountSubscriptions {
    pub(super) fn subscribe(self: &Arc<Self>, account: AccountId) -> Subscription {
        let mut topics = self.topics();
        let topic = topics.entry(account).or_insert_with(|| Topic { feed: Arc::default(), subscribers: 0 });
        topic.subscribers += 1;
        Subscription { subscriptions: self.clone(), account, feed: topic.feed.clone() }
    }

    /// Notifies the subscribers of the accounts that have changed.
    pub(super) fn publish(&self, has_changed: impl Fn(&AccountId) -> bool) {
        for (_, topic) in self.topics().iter().filter(|(account, _)| has_changed(account)) {
            topic.feed.changes.fetch_add(1, Ordering::SeqCst);
            topic.feed.changed.notify_waiters();
        }
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<AccountId, Topic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The number of changes since the account's first subscription.
    pub fn changes(&self) -> u64 {
        self.feed.changes.load(Ordering::SeqCst)
    }

    /// Waits until the number of changes differs from `seen`.
    pub async fn changed(&self, seen: u64) {
        loop {
            // Created before the comparison: from here on no notification is lost.
            let changed = self.feed.changed.notified();
            if self.changes() != seen {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = self.subscriptions.topics();
        if let Some(topic) = topics.get_mut(&self.account) {
            topic.subscribers -= 1;
            if topic.subscribers == 0 {
                topics.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_changes_of_the_account_are_published_to_its_subscribers() {
        let subscriptions = Arc::new(AccountSubscriptions::default());
        let [ana, bob] = [(); 2].map(|()| AccountId(Uuid::new_v4()));
        let [first, second] = [(); 2].map(|()| subscriptions.subscribe(ana));
        let mut waiting = Box::pin(first.changed(0));
        assert!(waiting.as_mut().now_or_never().is_none());
        subscriptions.publish(|account| *account == bob);
        assert!(waiting.as_mut().now_or_never().is_none());
        subscriptions.publish(|account| *account == ana);
        assert!(waiting.now_or_never().is_some());
        assert!(second.changed(0).now_or_never().is_some(), "a later wait sees the change, too");
        assert!(second.changed(1).now_or_never().is_none());

        drop(first);
        assert_eq!(subscriptions.topics().len(), 1);
        drop(second);
        assert_eq!(subscriptions.topics().len(), 0);
    }
}
