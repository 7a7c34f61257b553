use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lockable_resp::Value;
use redis::aio::MultiplexedConnection;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::{
    checked_node::CheckedNode,
    command_error::CommandError,
    eval::{GeneralConnection, eval},
};
use crate::store::{
    StoreError,
    clock_sample::{ClockJump, ClockSample},
    primary::{Primary, REGISTER_PRIMARY, Registration},
    recovery_log::EventAggregator,
    store_clock::StoreClock,
};

/// The scripts' handle of one hash tag: the checked node that serves it, if there is one, the
/// node's clock, and the primary of the tag's grants.
pub(super) struct TagHandle {
    tag: &'static str,
    primary: Primary,
    /// The names of the keys `primary` and `clock`, if the tag has grants.
    keys: Option<[String; 2]>,
    node: watch::Sender<Option<Arc<CheckedNode>>>,
    clock: StoreClock,
}

impl TagHandle {
    pub(super) fn new(tag: &'static str) -> Self {
        let (primary, clock) = (Primary::new(tag, None, None), StoreClock::default());
        Self { tag, primary, keys: None, node: watch::Sender::new(None), clock }
    }

    /// A handle of a tag with grants, with the names of the keys `primary` and `clock`.
    pub(super) fn with_grants(tag: &'static str, keys: [String; 2], events: Option<Arc<EventAggregator>>) -> Self {
        Self { primary: Primary::new(tag, events, None), keys: Some(keys), ..Self::new(tag) }
    }

    pub(super) fn tag(&self) -> &'static str {
        self.tag
    }

    /// The primary of the tag's grants.
    pub(super) fn primary(&self) -> &Primary {
        &self.primary
    }

    /// The node, as soon as there is one, until `deadline`.
    pub(super) async fn node(&self, deadline: Instant) -> Result<Arc<CheckedNode>, StoreError> {
        if let Some(node) = self.current_node() {
            return Ok(node);
        }
        // Boxed, so that the futures of requests stay small: nearly all find a node.
        Box::pin(self.wait_for_node(deadline)).await
    }

    async fn wait_for_node(&self, deadline: Instant) -> Result<Arc<CheckedNode>, StoreError> {
        let mut receiver = self.node.subscribe();
        match timeout_at(deadline, receiver.wait_for(Option::is_some)).await {
            Ok(Ok(node)) => node.clone().ok_or_else(not_connected),
            Ok(Err(_)) | Err(_) => Err(not_connected()),
        }
    }

    pub(super) fn current_node(&self) -> Option<Arc<CheckedNode>> {
        self.node.borrow().clone()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.node.borrow().is_some()
    }

    /// The node's clock, see [`StoreClock::now_us`].
    pub(super) fn now_us(&self) -> Option<u64> {
        self.clock.now_us()
    }

    /// The jump of the node's clock since this handle's last sample, if any.
    pub(super) fn jump(&self, sample: &ClockSample, jump_max: Duration) -> Option<ClockJump> {
        self.clock.jump(sample, jump_max)
    }

    /// Records the node's clock. After a jump the caller must have closed grants first: until this
    /// call, commands carry deadlines by the old time.
    pub(super) fn record_time(&self, sample: ClockSample) {
        self.clock.record(sample);
    }

    /// Runs `lua/register_primary.lua`. A node that does not serve the tag returns an error.
    pub(super) async fn register_primary(
        &self,
        connection: &mut MultiplexedConnection,
        process: &str,
        former: &str,
        registration: Registration<'_>,
    ) -> Result<(), CommandError> {
        let Some([primary_key, clock_key]) = &self.keys else {
            let exists = redis::Cmd::exists(format!("{{{}}}", self.tag));
            return match GeneralConnection(connection).run(&exists).await? {
                Value::Error(error) => Err(CommandError::from_reply(error)),
                _ => Ok(()),
            };
        };
        let args = self.primary.registration_args(process, former, registration);
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let reply =
            eval(&mut GeneralConnection(connection), &REGISTER_PRIMARY, &[primary_key, clock_key], &args).await?;
        self.primary.record_reply(&reply).map(drop).map_err(|error| CommandError::Other(error.to_string()))
    }

    /// Records a command error, and disconnects what caused it.
    pub(super) fn record_error(&self, node: &Arc<CheckedNode>, error: &CommandError) {
        match error {
            // In a cluster the connection is fine: the slot has moved. While it moves (ASK,
            // TRYAGAIN), no other node serves all of its keys yet.
            CommandError::NotMaster(reason) if node.tags.is_cluster_node() => {
                if !matches!(reason.split(' ').next(), Some("ASK" | "TRYAGAIN")) {
                    self.disconnect(node);
                    node.tags.changed.notify_one();
                }
            }
            error => node.record_error(error),
        }
    }

    /// Drops the node, if it is still `old`.
    fn disconnect(&self, old: &Arc<CheckedNode>) {
        self.node.send_if_modified(|node| node.take_if(|node| Arc::ptr_eq(node, old)).is_some());
    }
}

fn not_connected() -> StoreError {
    StoreError::NotSent("there is no connection to Redis".into())
}

/// The hash tags that one server serves. In a cluster they change.
pub(super) struct ServedTags {
    handles: Mutex<Vec<Arc<TagHandle>>>,
    /// Notified when a tag was added, or may have moved to another node.
    pub(super) changed: Notify,
    /// In a cluster, notified when a tag has lost its node.
    tag_lost: Option<Arc<Notify>>,
}

impl ServedTags {
    /// The one handle of a server that serves all keys.
    pub(super) fn all(handle: Arc<TagHandle>) -> Arc<Self> {
        Arc::new(Self { handles: Mutex::new(vec![handle]), changed: Notify::new(), tag_lost: None })
    }

    /// The tags of a cluster node; empty at first.
    pub(super) fn of_node(tag_lost: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { handles: Mutex::default(), changed: Notify::new(), tag_lost: Some(tag_lost) })
    }

    pub(super) fn is_cluster_node(&self) -> bool {
        self.tag_lost.is_some()
    }

    pub(super) fn handles(&self) -> Vec<Arc<TagHandle>> {
        self.lock().clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Adds a handle, unless it is present.
    pub(super) fn add(&self, handle: &Arc<TagHandle>) {
        let mut handles = self.lock();
        if !handles.iter().any(|other| Arc::ptr_eq(other, handle)) {
            handles.push(handle.clone());
            self.changed.notify_one();
        }
    }

    /// Removes a handle and drops its node, if the handle is present.
    pub(super) fn remove(&self, handle: &Arc<TagHandle>) {
        let mut handles = self.lock();
        if let Some(at) = handles.iter().position(|other| Arc::ptr_eq(other, handle)) {
            handles.swap_remove(at);
            handle.node.send_replace(None);
        }
    }

    /// Removes a handle that the server no longer serves, and requests a topology query.
    pub(super) fn remove_lost(&self, handle: &Arc<TagHandle>) {
        self.remove(handle);
        self.notify_lost();
    }

    /// Sets the node of a handle, unless the handle was removed meanwhile.
    pub(super) fn connect(&self, handle: &Arc<TagHandle>, node: &Arc<CheckedNode>) {
        let handles = self.lock();
        let is_served = handles.iter().any(|other| Arc::ptr_eq(other, handle));
        if is_served {
            let is_new =
                |before: &Option<Arc<CheckedNode>>| !before.as_ref().is_some_and(|before| Arc::ptr_eq(before, node));
            handle.node.send_if_modified(|before| is_new(before).then(|| *before = Some(node.clone())).is_some());
        }
    }

    /// Drops the node of all handles.
    pub(super) fn disconnect_all(&self) {
        for handle in self.lock().iter() {
            handle.node.send_replace(None);
        }
        self.notify_lost();
    }

    fn notify_lost(&self) {
        if let Some(tag_lost) = &self.tag_lost {
            tag_lost.notify_one();
        }
    }

    /// No change leaves the list inconsistent, so a poisoned mutex is safe to use.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<TagHandle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
