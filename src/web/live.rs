use std::{convert::Infallible, sync::Arc, time::Duration};

use askama::Template;
use axum::{
    extract::{Query, State},
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::Stream;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use super::{
    aside::parts,
    error::Trouble,
    locks::{LocksQuery, Rows},
    session::Member,
};
use crate::{
    accounts::Secret,
    app::App,
    limits::Share,
    lock::{AccountId, Namespace},
};

/// How often to look for what has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// In how many of these looks to ask once whether the session has ended.
const LOOKS_BETWEEN_CHECKS: u32 = 5;
/// After how long the browser has to ask again: before this server or a balancer
/// takes it for one that has gone, since it says nothing meanwhile.
const LIFE: Duration = Duration::from_secs(55);
/// How soon it asks then.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// When to ask again where as many look as may.
const RETRY_AFTER: Duration = Duration::from_secs(30);

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
    account: AccountId,
    /// Its place among those who look.
    _place: (Share<AccountId>, OwnedSemaphorePermit),
}

/// `GET /account/locks/live`: the rows of the page whenever something has changed,
/// as server-sent events.
pub(super) async fn live(
    State(app): State<Arc<App>>,
    member: Member,
    Query(query): Query<LocksQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Trouble> {
    let account = member.account();
    let place = app.page.live_of.admit(account).zip(app.page.live.clone().try_acquire_owned().ok());
    let place = place.ok_or_else(|| Trouble::too_many(RETRY_AFTER))?;
    let session = member.visitor.session.clone().ok_or_else(Trouble::forged)?;
    let namespaces = member.namespaces(&app).await?;
    let mut tick = interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ends = Instant::now() + LIFE;
    let mut look = Look { app, session, namespaces, query, tick, ends, looks: 0, seen: None, account, _place: place };
    let events = parts(|shown| async move {
        while let Some(event) = look.next().await {
            if shown.send(Ok(event)).await.is_err() {
                return;
            }
        }
    });
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
            let rows = Rows::read(&self.app, self.account, &self.namespaces, &self.query).await;
            // Without an answer the next look tells.
            let Ok(rows) = rows else { continue };
            let gist = rows.gist();
            if self.seen.as_ref() != Some(&gist) {
                self.seen = Some(gist);
                return Some(Event::default().event("locks").retry(ASK_AGAIN).data(rows.render().unwrap_or_default()));
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
