use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    error::PageError,
    form::Form,
    layout::{Layout, Section},
    locks::HolderDetails,
    session::{SessionUser, find_namespace},
    template::HtmlPage,
};
use crate::{
    app::{App, AuditedBreak},
    lock::{BreakOutcome, Holder, LockName, Namespace, RateCharge},
    locks::{LockKey, ReadOutcome},
};

/// The query string that names a lock.
#[derive(Debug, Deserialize)]
pub(super) struct LockQuery {
    pub namespace: String,
    pub name: String,
}

#[derive(Deserialize)]
pub(super) struct BreakForm {
    namespace: String,
    name: String,
    /// The fencing token of the grant that the page showed.
    fence: String,
}

#[derive(Template)]
#[template(path = "break.html")]
pub(super) struct BreakPage {
    layout: Layout,
    lock: LockQuery,
    holder: Option<HolderDetails>,
    waiting: u64,
    /// Nothing was broken: the lock has another holder than the page showed.
    has_changed: bool,
}

impl LockQuery {
    /// Parses the query; the namespace must be one of `namespaces`.
    pub(super) fn id(&self, namespaces: &[Namespace]) -> Result<LockKey, PageError> {
        let namespace = find_namespace(namespaces, &self.namespace)?.id;
        let name = LockName::parse(self.name.as_str());
        let name = name.map_err(|error| PageError::malformed(format!("Invalid lock name: {error}.")))?;
        Ok(LockKey { namespace, name })
    }
}

/// The lock's holder, if it belongs to the user's account, and the number of waiters.
pub(super) async fn current_holder(
    app: &App,
    user: &SessionUser,
    lock: &LockKey,
) -> Result<(Option<Holder>, u64), PageError> {
    match app.locks.inspect(lock, None, &RateCharge::Done).await?.outcome {
        ReadOutcome::Found(standing) => {
            let holder = standing.held.map(|held| held.holder).filter(|holder| holder.account == user.account());
            Ok((holder, standing.waiting))
        }
        // Unreachable with `Paid`: pages are limited by `SessionUser::RATE`.
        ReadOutcome::RateLimited { retry_after } => Err(PageError::too_many(retry_after)),
    }
}

/// `GET /account/locks/break`: asks for confirmation and shows the holder.
pub(super) async fn break_page(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Query(lock): Query<LockQuery>,
) -> Result<HtmlPage<BreakPage>, PageError> {
    render(&app, &user, lock, false).await
}

async fn render(
    app: &App,
    user: &SessionUser,
    lock: LockQuery,
    has_changed: bool,
) -> Result<HtmlPage<BreakPage>, PageError> {
    let id = lock.id(&user.namespaces(app).await?)?;
    let (holder, waiting) = current_holder(app, user, &id).await?;
    let holder = holder.as_ref().map(HolderDetails::new);
    Ok(HtmlPage(BreakPage { layout: user.layout("Break a lock", Section::Locks), lock, holder, waiting, has_changed }))
}

/// `POST /account/locks/break`: breaks the grant that the page showed, and no other.
pub(super) async fn break_lock(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, BreakForm>,
) -> Result<Response, PageError> {
    user.require_active()?;
    let BreakForm { namespace, name, fence } = fields;
    let lock = LockQuery { namespace, name };
    let id = lock.id(&user.namespaces(&app).await?)?;
    let (holder, _) = current_holder(&app, &user, &id).await?;
    let Some(holder) = holder.filter(|holder| holder.fence.to_string() == fence) else {
        return Ok(render(&app, &user, lock, true).await?.into_response());
    };
    let breaking = AuditedBreak {
        by: user.session.actor(),
        by_label: "account page".into(),
        lock: id,
        namespace: lock.namespace.clone(),
        holder,
    };
    match app.break_grant(breaking).await? {
        BreakOutcome::Broken => Ok(Redirect::to("/account/locks").into_response()),
        BreakOutcome::Refused(_) => Ok(render(&app, &user, lock, true).await?.into_response()),
    }
}
