use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use askama::Template;
use axum::{
    extract::{Query, State},
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{
    locks::{LocksQuery, Rows},
    member::Member,
    trouble::Trouble,
};
use crate::{
    accounts::Secret,
    app::App,
    lock::{AccountId, Namespace},
};

/// How often to look for what has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// In how many of these looks to ask once whether the session has ended.
const LOOKS_BETWEEN_CHECKS: u32 = 5;
/// After how long the browser has to ask again, so that servers share the load.
const LIFE: Duration = Duration::from_secs(600);

/// Who looks at their locks.
static WATCHED: Watched = Watched(Mutex::new(None));

/// How many browsers of each account look, in this server.
struct Watched(Mutex<Option<HashMap<AccountId, usize>>>);

/// One of them, as long as it is there.
struct Watch(AccountId);

impl Watched {
    /// How many of one account may look at once, and how many of all.
    const OF_ACCOUNT_MAX: usize = 20;
    const MAX: usize = 1_000;

    fn begin(&self, account: AccountId) -> Option<Watch> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = watched.get_or_insert_default();
        let all: usize = watched.values().sum();
        let own = watched.entry(account).or_default();
        if all >= Self::MAX || *own >= Self::OF_ACCOUNT_MAX {
            return None;
        }
        *own += 1;
        Some(Watch(account))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = WATCHED.0.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = watched.get_or_insert_default();
        if let Some(own) = watched.get_mut(&self.0) {
            *own -= 1;
            if *own == 0 {
                watched.remove(&self.0);
            }
        }
    }
}

/// What a look needs.
struct Look {
    app: Arc<App>,
    session: Secret,
    namespaces: Vec<Namespace>,
    query: LocksQuery,
    tick: Interval,
    ends: Instant,
    looks: u32,
    seen: Option<String>,
    watch: Watch,
}

/// `GET /account/locks/live`: the rows of the page whenever something has changed,
/// as server-sent events.
pub(super) async fn live(
    State(app): State<Arc<App>>,
    member: Member,
    Query(query): Query<LocksQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Trouble> {
    let watch = WATCHED.begin(member.account()).ok_or_else(|| Trouble::too_many(Duration::from_secs(30)))?;
    let session = member.visitor.session.clone().ok_or_else(Trouble::forged)?;
    let namespaces = member.namespaces(&app).await?;
    let mut tick = interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ends = Instant::now() + LIFE;
    let look = Look { app, session, namespaces, query, tick, ends, looks: 0, seen: None, watch };
    let events = stream::unfold(look, |mut look| async move { look.next().await.map(|event| (Ok(event), look)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

impl Look {
    /// Waits until something has changed; `None` when it is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let draining = self.app.draining.clone();
            tokio::select! {
                _ = self.tick.tick() => {}
                () = draining.cancelled() => return None,
            }
            if self.ends <= Instant::now() || !self.is_signed_in().await {
                return None;
            }
            self.looks += 1;
            let rows = Rows::read(&self.app, self.watch.0, &self.namespaces, &self.query).await;
            // Without an answer the next look tells.
            let Ok(rows) = rows else { continue };
            let gist = rows.gist();
            if self.seen.as_ref() != Some(&gist) {
                self.seen = Some(gist);
                return Some(Event::default().event("locks").data(rows.render().unwrap_or_default()));
            }
        }
    }

    /// An ended session sees nothing more; without an answer it may go on.
    async fn is_signed_in(&mut self) -> bool {
        if !self.looks.is_multiple_of(LOOKS_BETWEEN_CHECKS) {
            return true;
        }
        !matches!(self.app.database.find_session(&self.session).await, Ok(None))
    }
}
