use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tracing::Instrument;
use utoipa::ToSchema;

use super::{
    answer::{LockAnswer, NotChanged, rfc_3339},
    caller::{Authorized, Look, Manage},
    lock_path::LockPath,
    openapi::{BreakAnswer, Problems},
    params::{InspectParams, LookParams},
    problem::Problem,
};
use crate::{
    accounts::Caller,
    app::App,
    lock::{Broken, Fence, Holder, LockName, Namespace, NotHeld, Owner, Standing},
    locks::{BreakRequest, Claimant, LockId, Looked},
};

/// How a lock stands.
#[derive(Serialize, ToSchema)]
pub(super) struct LockView<'a> {
    name: &'a str,
    namespace: &'a str,
    held: bool,
    /// Left out when the lock is free, and when another account holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<HolderView<'a>>,
    /// How many wait for it.
    waiting: u64,
    /// Which of them the `owner` is that the request names, from 1; left out when
    /// it does not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<u64>,
}

/// Who holds a lock, for its account.
#[derive(Serialize, ToSchema)]
pub(super) struct HolderView<'a> {
    owner: Option<&'a str>,
    note: &'a str,
    /// What the token is called with which it was acquired.
    token_label: &'a str,
    #[schema(value_type = u64, maximum = 9_007_199_254_740_991_u64)]
    fencing_token: Fence,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    acquired_at: Timestamp,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

impl<'a> HolderView<'a> {
    pub(super) fn new(holder: &'a Holder) -> Self {
        Self {
            owner: holder.owner.as_ref().map(Owner::as_str),
            note: holder.note.as_str(),
            token_label: holder.label.as_str(),
            fencing_token: holder.fence,
            acquired_at: holder.acquired_at,
            expires_at: holder.expires_at,
        }
    }
}

/// `GET /v1/locks/{name}`.
#[utoipa::path(
    get,
    path = "/v1/locks/{name}",
    tag = "looking",
    summary = "Who holds a lock",
    description = "The holder is shown to its own account alone.",
    params(("name" = String, Path, description = "The lock's name", min_length = 1, max_length = 200, example = "deploy-prod"), InspectParams),
    responses((status = 200, description = "How the lock stands", body = LockView<'static>), Problems),
)]
pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    caller: Authorized<Look>,
    LockPath(name): LockPath,
    params: InspectParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let lock = LockId { namespace: namespace.id, name };
    let asking = params.owner.map(|owner| Claimant { account: caller.account().account, owner: Some(owner) });
    let Standing { held, waiting, place } = look(&app, &caller, &lock, asking.as_ref()).await?;
    let of_caller = held.as_ref().map(|held| &held.holder).filter(|holder| holder.account == caller.account().account);
    let view = LockView {
        name: lock.name.as_str(),
        namespace: &namespace.name,
        held: held.is_some(),
        holder: of_caller.map(HolderView::new),
        waiting,
        place,
    };
    Ok(Json(view).into_response())
}

/// `DELETE /v1/locks/{name}`: breaks the grant that is there. That is in the audit
/// log, or it has not been done.
#[utoipa::path(
    delete,
    path = "/v1/locks/{name}",
    tag = "looking",
    summary = "Break a lock",
    description = "Takes it from whoever of the account holds it. Needs the scope `manage`, and is recorded in the audit log. The first in line has the lock then.",
    params(("name" = String, Path, description = "The lock's name", min_length = 1, max_length = 200, example = "deploy-prod"), LookParams),
    responses((status = 200, description = "Yes or no: see `response`", body = BreakAnswer), Problems),
)]
pub(super) async fn break_lock(
    State(app): State<Arc<App>>,
    caller: Authorized<Manage>,
    LockPath(name): LockPath,
    params: LookParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let lock = LockId { namespace: namespace.id, name };
    match break_held(&app, &caller, &lock, namespace).await? {
        Ok(holder) => Ok(LockAnswer::yes(&lock.name, namespace, Was { holder: HolderView::new(&holder) })),
        Err(reason) => Ok(LockAnswer::no(&lock.name, namespace, false, NotChanged::from(reason))),
    }
}

/// Breaks the grant that is there, if it is one of the caller's account. Returns
/// whose it was.
pub(super) async fn break_held<P>(
    app: &Arc<App>,
    caller: &Authorized<P>,
    lock: &LockId,
    namespace: &Namespace,
) -> Result<Result<Holder, NotHeld>, Problem> {
    let account = caller.account();
    let holder = match look(app, caller, lock, None).await?.held {
        None => return Ok(Err(NotHeld::Free)),
        Some(held) if held.holder.account != account.account => return Ok(Err(NotHeld::HeldByAnother)),
        Some(held) => held.holder,
    };
    let detail = audit_detail(account, &lock.name, namespace, &holder);
    let request = BreakRequest { lock: lock.clone(), account: account.account, fence: holder.fence };
    // In a task of its own: a client that hangs up now must not keep what it has
    // done out of the log.
    let breaking =
        tokio::spawn(break_and_record(app.clone(), caller.shared_account(), request, detail).in_current_span());
    let broken = breaking.await.map_err(|error| {
        tracing::error!(%error, "breaking a lock ended early");
        Problem::internal()
    })??;
    Ok(match broken {
        Broken::Broken => Ok(holder),
        Broken::Refused(reason) => Err(reason),
    })
}

async fn break_and_record(
    app: Arc<App>,
    account: Arc<Caller>,
    request: BreakRequest,
    detail: serde_json::Value,
) -> Result<Broken, Problem> {
    let recording = app.directory.record(&account, "lock.break", detail).await?;
    let broken = app.locks.break_grant(&request).await;
    // Without an answer it may be broken; the log says what was tried, then.
    if broken.as_ref().map_or_else(|error| !error.is_sure(), |broken| *broken == Broken::Broken) {
        recording.commit().await.inspect_err(|error| {
            tracing::error!(%error, fence = %request.fence, "a lock was broken, and the audit log does not say so");
        })?;
    }
    Ok(broken?)
}

/// Whose the lock was that was broken.
#[derive(Serialize, ToSchema)]
pub(super) struct Was<'a> {
    holder: HolderView<'a>,
}

fn audit_detail(caller: &Caller, name: &LockName, namespace: &Namespace, holder: &Holder) -> serde_json::Value {
    json!({
        "by": caller.label,
        "namespace": namespace.name,
        "name": name.as_str(),
        "holder": HolderView::new(holder),
    })
}

pub(super) async fn look<P>(
    app: &App,
    caller: &Authorized<P>,
    lock: &LockId,
    asking: Option<&Claimant>,
) -> Result<Standing, Problem> {
    match caller.settle(app.locks.inspect(lock, asking, &caller.payment()).await?) {
        Looked::Found(standing) => Ok(standing),
        Looked::RateLimited { retry_after } => Err(caller.rate_limited(retry_after)),
    }
}
