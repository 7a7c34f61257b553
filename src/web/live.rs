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
    error::PageError,
    locks::{LockRows, LocksQuery},
    page_runtime::stream_items,
    session::SessionUser,
};
use crate::{
    accounts::Secret,
    app::App,
    limits::PerKeyPermit,
    lock::{AccountId, Namespace},
};

/// Interval between two reads of the list.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The session is checked once in this many polls.
const POLLS_PER_SESSION_CHECK: u32 = 5;
/// The stream ends after this time and the browser reconnects: the browser sends nothing, and
/// a longer stream could hit the idle timeout of this server or of a load balancer.
const STREAM_MAX: Duration = Duration::from_secs(55);
/// Delay of the browser's reconnect.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// `Retry-After` when the limit of live lists is reached.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The state of one stream of live updates.
struct LiveUpdates {
    app: Arc<App>,
    session: Secret,
    namespaces: Vec<Namespace>,
    query: LocksQuery,
    tick: Interval,
    ends: Instant,
    polls: u32,
    /// Fingerprint of the rows sent last.
    last_sent: Option<String>,
    account: AccountId,
    /// The permits of the per-account and the global limit of live lists.
    _permits: (PerKeyPermit<AccountId>, OwnedSemaphorePermit),
}

/// `GET /account/locks/live`: server-sent events with the rendered rows, one after each change.
pub(super) async fn live(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Query(query): Query<LocksQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, PageError> {
    let account = user.account();
    let permits = app
        .pages
        .live_views_per_account
        .try_acquire(account)
        .zip(app.pages.live_views.clone().try_acquire_owned().ok());
    let permits = permits.ok_or_else(|| PageError::too_many(RETRY_AFTER))?;
    let session = user.browser.session.clone().ok_or_else(PageError::invalid_csrf)?;
    let namespaces = user.namespaces(&app).await?;
    let mut tick = interval(POLL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ends = Instant::now() + STREAM_MAX;
    let mut updates = LiveUpdates {
        app,
        session,
        namespaces,
        query,
        tick,
        ends,
        polls: 0,
        last_sent: None,
        account,
        _permits: permits,
    };
    let events = stream_items(|sender| async move {
        while let Some(event) = updates.next().await {
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

impl LiveUpdates {
    /// Waits for the next change; `None` ends the stream.
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
            self.polls += 1;
            let rows = LockRows::read(&self.app, self.account, &self.namespaces, &self.query).await;
            // On an error the next poll retries.
            let Ok(rows) = rows else { continue };
            let fingerprint = rows.fingerprint();
            if self.last_sent.as_ref() != Some(&fingerprint) {
                self.last_sent = Some(fingerprint);
                return Some(
                    Event::default().event("locks").retry(RECONNECT_AFTER).data(rows.render().unwrap_or_default()),
                );
            }
        }
    }

    /// Whether the session is still valid; a database error counts as valid.
    async fn is_signed_in(&mut self) -> bool {
        if !self.polls.is_multiple_of(POLLS_PER_SESSION_CHECK) {
            return true;
        }
        !matches!(self.app.database.find_session(&self.session).await, Ok(None))
    }
}
