use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::{
    checked_node::Live,
    command_error::{Fault, evaluate},
};
use crate::store::{
    StoreError,
    clock_sample::{Leap, Reading},
    primary::{ARRIVE, Arrival, Home},
    recovery_log::Gathered,
    store_clock::StoreClock,
};

/// The way of the scripts whose keys have one hash tag: to the server where these
/// are, as long as there is one that was checked.
pub(super) struct Route {
    tag: &'static str,
    home: Home,
    /// Where there are grants, the names of the keys `home` and `clock`.
    keys: Option<[String; 2]>,
    live: watch::Sender<Option<Arc<Live>>>,
    clock: StoreClock,
}

impl Route {
    pub(super) fn new(tag: &'static str) -> Self {
        let (home, clock) = (Home::new(tag, None, None), StoreClock::default());
        Self { tag, home, keys: None, live: watch::Sender::new(None), clock }
    }

    /// One to grants, with the names of the keys `home` and `clock`.
    pub(super) fn to_grants(tag: &'static str, keys: [String; 2], gathered: Option<Arc<Gathered>>) -> Self {
        Self { home: Home::new(tag, gathered, None), keys: Some(keys), ..Self::new(tag) }
    }

    pub(super) fn tag(&self) -> &'static str {
        self.tag
    }

    /// Who has the grants.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// The connection, waiting for one until `deadline`.
    pub(super) async fn live(&self, deadline: Instant) -> Result<Arc<Live>, StoreError> {
        if let Some(live) = self.live_now() {
            return Ok(live);
        }
        // Boxed: its room would be taken in every request, most of which find one.
        Box::pin(self.next_live(deadline)).await
    }

    async fn next_live(&self, deadline: Instant) -> Result<Arc<Live>, StoreError> {
        let mut receiver = self.live.subscribe();
        match timeout_at(deadline, receiver.wait_for(Option::is_some)).await {
            Ok(Ok(live)) => live.clone().ok_or_else(not_connected),
            Ok(Err(_)) | Err(_) => Err(not_connected()),
        }
    }

    pub(super) fn live_now(&self) -> Option<Arc<Live>> {
        self.live.borrow().clone()
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.borrow().is_some()
    }

    /// The server's time, see [`StoreClock::now_us`].
    pub(super) fn now_us(&self) -> Option<u64> {
        self.clock.now_us()
    }

    /// The leap of the server's clock since this route read it last, if it was set.
    pub(super) fn leap(&self, reading: &Reading, leap_max: Duration) -> Option<Leap> {
        self.clock.leap(reading, leap_max)
    }

    /// Takes note of the server's time. After a leap, grants must have been closed
    /// before: until then commands are late by the time that is known here.
    pub(super) fn hear(&self, reading: Reading) {
        self.clock.hear(reading);
    }

    /// Tells the server that this is where the keys are looked for, see
    /// `lua/register_primary.lua`. One that does not have them says so here.
    pub(super) async fn arrive(
        &self,
        connection: &mut MultiplexedConnection,
        process: &str,
        former: &str,
        arrival: Arrival<'_>,
    ) -> Result<(), Fault> {
        let Some([home, clock]) = &self.keys else {
            return Ok(redis::cmd("EXISTS").arg(format!("{{{}}}", self.tag)).query_async(connection).await?);
        };
        let args = self.home.arrive_args(process, former, arrival);
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let reply = evaluate(connection, &ARRIVE, &[home, clock], &args).await?;
        self.home.note(&reply).map(drop).map_err(|error| Fault::Error(error.to_string()))
    }

    /// Takes note of a fault with one request, and gives up what is to blame.
    pub(super) fn note(&self, live: &Arc<Live>, fault: &Fault) {
        match fault {
            // In a cluster the keys may have gone, and nothing be wrong with the
            // connection; while they are going, no other server has them yet.
            Fault::NoMaster(reason) if live.routes.are_many() => {
                if !matches!(reason.split(' ').next(), Some("ASK" | "TRYAGAIN")) {
                    self.leave(live);
                    live.routes.changed.notify_one();
                }
            }
            fault => live.note(fault),
        }
    }

    /// Leads there no more.
    fn leave(&self, left: &Arc<Live>) {
        self.live.send_if_modified(|live| live.take_if(|live| Arc::ptr_eq(live, left)).is_some());
    }
}

fn not_connected() -> StoreError {
    StoreError::NotSent("there is no connection to Redis".into())
}

/// The routes that lead to one server: its keys come and go in a cluster.
pub(super) struct Routes {
    all: Mutex<Vec<Arc<Route>>>,
    /// Told when one was added, or may have to go.
    pub(super) changed: Notify,
    /// In a cluster, who is told when one had to go.
    lost: Option<Arc<Notify>>,
}

impl Routes {
    /// The one route to a server that has all keys.
    pub(super) fn only(route: Arc<Route>) -> Arc<Self> {
        Arc::new(Self { all: Mutex::new(vec![route]), changed: Notify::new(), lost: None })
    }

    /// None yet, to a node of a cluster.
    pub(super) fn of_node(lost: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { all: Mutex::default(), changed: Notify::new(), lost: Some(lost) })
    }

    pub(super) fn are_many(&self) -> bool {
        self.lost.is_some()
    }

    pub(super) fn all(&self) -> Vec<Arc<Route>> {
        self.routes().clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes().is_empty()
    }

    /// Adds a route, unless it is there.
    pub(super) fn add(&self, route: &Arc<Route>) {
        let mut routes = self.routes();
        if !routes.iter().any(|other| Arc::ptr_eq(other, route)) {
            routes.push(route.clone());
            self.changed.notify_one();
        }
    }

    /// Takes a route out, if it is there: it leads nowhere then.
    pub(super) fn take_out(&self, route: &Arc<Route>) {
        let mut routes = self.routes();
        if let Some(at) = routes.iter().position(|other| Arc::ptr_eq(other, route)) {
            routes.swap_remove(at);
            route.live.send_replace(None);
        }
    }

    /// Takes a route out whose keys the server does not have any more.
    pub(super) fn lose(&self, route: &Arc<Route>) {
        self.take_out(route);
        self.tell();
    }

    /// Leads a route there, unless it was taken out meanwhile.
    pub(super) fn lead(&self, route: &Arc<Route>, live: &Arc<Live>) {
        let routes = self.routes();
        let is_there = routes.iter().any(|other| Arc::ptr_eq(other, route));
        if is_there {
            let is_new = |before: &Option<Arc<Live>>| !before.as_ref().is_some_and(|before| Arc::ptr_eq(before, live));
            route.live.send_if_modified(|before| is_new(before).then(|| *before = Some(live.clone())).is_some());
        }
    }

    /// Leads all of them nowhere.
    pub(super) fn close(&self) {
        for route in self.routes().iter() {
            route.live.send_replace(None);
        }
        self.tell();
    }

    fn tell(&self) {
        if let Some(lost) = &self.lost {
            lost.notify_one();
        }
    }

    /// Every change is whole; a panic elsewhere does not spoil it.
    fn routes(&self) -> MutexGuard<'_, Vec<Arc<Route>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
