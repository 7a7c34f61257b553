use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    discovery::Locator,
    server_info::StartError,
    slot_map::{Route, Routes},
    supervisor::{Link, Plan},
    topology::{Masters, Place},
};
use crate::store::LOOK_INTERVAL;

/// The nodes of a cluster: one link to each that has some of the keys, which all
/// routes to that node share. Slots move; the routes go after them.
pub(super) struct Nodes {
    ways: Ways,
    /// All routes, wherever they lead.
    routes: Vec<Arc<Route>>,
    known: HashMap<Place, Node>,
    /// Told when a route leads nowhere any more.
    lost: Arc<Notify>,
    stop: CancellationToken,
}

/// What all links have in common.
pub(super) struct Ways {
    pub(super) locator: Arc<Locator>,
    pub(super) runtimes: Vec<Handle>,
    pub(super) lent_max: u32,
}

struct Node {
    routes: Arc<Routes>,
    _stop: DropGuard,
}

impl Nodes {
    /// How often it is asked who has what while some routes lead nowhere, at the
    /// least and at the most.
    const SEARCH_INTERVAL: Duration = Duration::from_millis(200);
    const SEARCH_PAUSE: Duration = Duration::from_millis(20);

    /// Connects to all masters, and goes on leading these routes there until `stop`.
    ///
    /// # Errors
    /// When one of them must not be used as it is. Those that cannot be reached are
    /// waited for.
    pub(super) async fn start(ways: Ways, routes: Vec<Arc<Route>>, stop: CancellationToken) -> Result<(), StartError> {
        let mut nodes = Self { ways, routes, known: HashMap::new(), lost: Arc::default(), stop: stop.clone() };
        match nodes.ways.locator.masters().await {
            Ok(masters) => {
                let links = nodes.settle(&masters).into_iter().map(|(plan, stop)| Link::start(plan, stop));
                try_join_all(links).await?;
            }
            Err(error) if error.is_passing() => tracing::warn!(%error, "waiting for Redis"),
            Err(error) => return Err(error),
        }
        tokio::spawn(async move { stop.run_until_cancelled(nodes.run()).await });
        Ok(())
    }

    async fn run(mut self) {
        loop {
            match self.ways.locator.masters().await {
                Ok(masters) => {
                    for (plan, stop) in self.settle(&masters) {
                        Link::spawn(plan, stop);
                    }
                }
                Err(error) => tracing::debug!(%error, "it is not known which node has what"),
            }
            self.until_news().await;
        }
    }

    /// Waits for a while, and not for long where routes lead nowhere.
    async fn until_news(&self) {
        let are_all_live = self.routes.iter().all(|route| route.is_live());
        let pause = if are_all_live { LOOK_INTERVAL } else { Self::SEARCH_INTERVAL };
        if timeout(pause, self.lost.notified()).await.is_ok() {
            sleep(Self::SEARCH_PAUSE).await;
        }
    }

    /// Leads each route to the node that has its slot, or where it did while that
    /// is not known. Returns the links that have to be made for it, and what ends them.
    fn settle(&mut self, masters: &Masters) -> Vec<(Plan, CancellationToken)> {
        let mut new = Vec::new();
        for route in &self.routes {
            let Some(place) = masters.of(route.tag()) else { continue };
            for (_, node) in self.known.iter().filter(|(other, _)| *other != place) {
                node.routes.take_out(route);
            }
            let node = self.known.entry(place.clone()).or_insert_with(|| {
                let (routes, stop) = (Routes::of_node(self.lost.clone()), self.stop.child_token());
                let plan = self.ways.plan(place.clone(), routes.clone());
                new.push((plan, stop.clone()));
                Node { routes, _stop: stop.drop_guard() }
            });
            node.routes.add(route);
        }
        self.known.retain(|_, node| !node.routes.is_empty());
        new
    }
}

impl Ways {
    fn plan(&self, place: Place, routes: Arc<Routes>) -> Plan {
        Plan {
            locator: self.locator.clone(),
            node: Some(place),
            routes,
            runtimes: self.runtimes.clone(),
            lent_max: self.lent_max,
        }
    }
}
