use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};

use super::{
    break_lock::{OneLock, held},
    error::Trouble,
    layout::{Section, Shell},
    locks::HolderView,
    session::Member,
    template::Page,
    time::Moment,
};
use crate::{
    app::App,
    lock::FencingToken,
    locks::{Ending, History, Past},
};

#[derive(Template)]
#[template(path = "history.html")]
pub(super) struct HistoryPage {
    shell: Shell,
    lock: OneLock,
    holder: Option<HolderView>,
    waiting: u64,
    grants: Vec<PastView>,
}

struct PastView {
    owner: String,
    label: String,
    note: String,
    fence: FencingToken,
    since: Moment,
    until: Option<Moment>,
    how: &'static str,
}

/// `GET /account/locks/history`: who of the account held a lock, and how that
/// ended.
pub(super) async fn history(
    State(app): State<Arc<App>>,
    member: Member,
    Query(lock): Query<OneLock>,
) -> Result<Page<HistoryPage>, Trouble> {
    let id = lock.id(&member.namespaces(&app).await?)?;
    let (holder, waiting) = held(&app, &member, &id).await?;
    let history = app.locks.history(member.account(), &id).await?;
    let current = holder.as_ref().map(|holder| holder.fence);
    let grants = history.grants.iter().map(|past| PastView::new(past, &history, current)).collect();
    let holder = holder.as_ref().map(HolderView::new);
    Ok(Page(HistoryPage { shell: member.shell("History of a lock", Section::Locks), lock, holder, waiting, grants }))
}

impl PastView {
    fn new(past: &Past, history: &History, current: Option<FencingToken>) -> Self {
        let how = match past.ended {
            Some((_, Ending::Released)) => "released",
            Some((_, Ending::Broken)) => "broken",
            Some((_, Ending::TakenBack)) => "taken back: its holder was gone before it heard of it",
            None if Some(past.fence) == current => "held",
            // Its end may be what was left out.
            None if history.gap.is_some_and(|gap| past.acquired_at <= gap) => "not on record",
            None => "lapsed",
        };
        Self {
            owner: past.owner.clone(),
            label: past.label.clone(),
            note: past.note.clone(),
            fence: past.fence,
            since: Moment(past.acquired_at),
            until: past.ended.map(|(at, _)| Moment(at)),
            how,
        }
    }
}
