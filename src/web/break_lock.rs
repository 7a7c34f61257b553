use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    error::Trouble,
    form::Form,
    layout::{Section, Shell},
    locks::HolderView,
    session::{Member, find_namespace},
    template::Page,
};
use crate::{
    app::{App, Breaking},
    lock::{BreakOutcome, Holder, LockName, Namespace, Payment},
    locks::{LockId, Looked},
};

/// Which lock is meant.
#[derive(Debug, Deserialize)]
pub(super) struct OneLock {
    pub namespace: String,
    pub name: String,
}

#[derive(Deserialize)]
pub(super) struct ToBreak {
    namespace: String,
    name: String,
    /// Of the grant that was shown.
    fence: String,
}

#[derive(Template)]
#[template(path = "break.html")]
pub(super) struct BreakPage {
    shell: Shell,
    lock: OneLock,
    holder: Option<HolderView>,
    waiting: u64,
    /// It was not broken, since it has another holder than the one that was shown.
    has_changed: bool,
}

impl OneLock {
    /// Reads it; its namespace must be one of these.
    pub(super) fn id(&self, namespaces: &[Namespace]) -> Result<LockId, Trouble> {
        let namespace = find_namespace(namespaces, &self.namespace)?.id;
        let name = LockName::parse(self.name.as_str());
        let name = name.map_err(|error| Trouble::malformed(format!("This is no name of a lock: {error}.")))?;
        Ok(LockId { namespace, name })
    }
}

/// The holder of a lock, if it is one of the account, and how many wait.
pub(super) async fn held(app: &App, member: &Member, lock: &LockId) -> Result<(Option<Holder>, u64), Trouble> {
    match app.locks.inspect(lock, None, &Payment::Paid).await?.outcome {
        Looked::Found(standing) => {
            let holder = standing.held.map(|held| held.holder).filter(|holder| holder.account == member.account());
            Ok((holder, standing.waiting))
        }
        // Pages have a rate of their own.
        Looked::RateLimited { retry_after } => Err(Trouble::too_many(retry_after)),
    }
}

/// `GET /account/locks/break`: whose the lock is that is to be broken.
pub(super) async fn ask_to_break(
    State(app): State<Arc<App>>,
    member: Member,
    Query(lock): Query<OneLock>,
) -> Result<Page<BreakPage>, Trouble> {
    page(&app, &member, lock, false).await
}

async fn page(app: &App, member: &Member, lock: OneLock, has_changed: bool) -> Result<Page<BreakPage>, Trouble> {
    let id = lock.id(&member.namespaces(app).await?)?;
    let (holder, waiting) = held(app, member, &id).await?;
    let holder = holder.as_ref().map(HolderView::new);
    Ok(Page(BreakPage { shell: member.shell("Break a lock", Section::Locks), lock, holder, waiting, has_changed }))
}

/// `POST /account/locks/break`: breaks the grant that was shown, and no other.
pub(super) async fn break_lock(
    State(app): State<Arc<App>>,
    Form { by: member, fields }: Form<Member, ToBreak>,
) -> Result<Response, Trouble> {
    member.may_act()?;
    let ToBreak { namespace, name, fence } = fields;
    let lock = OneLock { namespace, name };
    let id = lock.id(&member.namespaces(&app).await?)?;
    let (holder, _) = held(&app, &member, &id).await?;
    let Some(holder) = holder.filter(|holder| holder.fence.to_string() == fence) else {
        return Ok(page(&app, &member, lock, true).await?.into_response());
    };
    let breaking = Breaking {
        by: member.session.actor(),
        by_label: "account page".into(),
        lock: id,
        namespace: lock.namespace.clone(),
        holder,
    };
    match app.break_grant(breaking).await? {
        BreakOutcome::Broken => Ok(Redirect::to("/account/locks").into_response()),
        BreakOutcome::Refused(_) => Ok(page(&app, &member, lock, true).await?.into_response()),
    }
}
