use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};

use super::{
    break_lock::{LockQuery, current_holder},
    error::PageError,
    layout::{Layout, Section},
    locks::HolderDetails,
    session::SessionUser,
    template::HtmlPage,
    time::DisplayTime,
};
use crate::{
    app::App,
    lock::FencingToken,
    locks::{GrantEnd, History, PastGrant},
};

#[derive(Template)]
#[template(path = "history.html")]
pub(super) struct HistoryPage {
    layout: Layout,
    lock: LockQuery,
    holder: Option<HolderDetails>,
    waiting: u64,
    grants: Vec<GrantRow>,
}

struct GrantRow {
    owner: String,
    label: String,
    note: String,
    fence: FencingToken,
    since: DisplayTime,
    until: Option<DisplayTime>,
    state: &'static str,
}

/// `GET /account/locks/history`: the account's past grants of a lock, and how each ended.
pub(super) async fn history(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Query(lock): Query<LockQuery>,
) -> Result<HtmlPage<HistoryPage>, PageError> {
    let id = lock.id(&user.namespaces(&app).await?)?;
    let (holder, waiting) = current_holder(&app, &user, &id).await?;
    let history = app.locks.history(user.account(), &id).await?;
    let current = holder.as_ref().map(|holder| holder.fence);
    let grants = history.grants.iter().map(|past| GrantRow::new(past, &history, current)).collect();
    let holder = holder.as_ref().map(HolderDetails::new);
    Ok(HtmlPage(HistoryPage { layout: user.layout("Lock history", Section::Locks), lock, holder, waiting, grants }))
}

impl GrantRow {
    fn new(past: &PastGrant, history: &History, current: Option<FencingToken>) -> Self {
        let state = match past.ended {
            Some((_, GrantEnd::Released)) => "released",
            Some((_, GrantEnd::Broken)) => "broken",
            Some((_, GrantEnd::Reverted)) => "reverted: the client disconnected before the response",
            None if Some(past.fence) == current => "held",
            // The missing records may contain its end.
            None if history.gap.is_some_and(|gap| past.acquired_at <= gap) => "unknown",
            None => "expired",
        };
        Self {
            owner: past.owner.clone(),
            label: past.label.clone(),
            note: past.note.clone(),
            fence: past.fence,
            since: DisplayTime(past.acquired_at),
            until: past.ended.map(|(at, _)| DisplayTime(at)),
            state,
        }
    }
}
