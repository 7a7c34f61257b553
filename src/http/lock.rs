use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    caller::{Authorized, Look, Manage},
    lock_path::LockPath,
    openapi::{BreakAnswer, Problems},
    params::{BreakParams, InspectParams},
    problem::Problem,
    responses::{LockAnswer, NotChanged, optional_rfc_3339, rfc_3339},
};
use crate::{
    accounts::Actor,
    app::{App, Breaking},
    lock::{BreakOutcome, FencingToken, Holder, Namespace, NotHeld, Owner, Standing},
    locks::{Claimant, LockId, Looked},
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
    position: Option<u64>,
    /// During a recovery, when the lock can be granted again at the earliest; left out
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_rfc_3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    recovering_until: Option<Timestamp>,
}

/// Who holds a lock, for its account.
#[derive(Serialize, ToSchema)]
pub(super) struct HolderView<'a> {
    owner: Option<&'a str>,
    note: &'a str,
    /// What the token is called with which it was acquired.
    token_label: &'a str,
    #[schema(value_type = u64, maximum = 9_007_199_254_740_991_u64)]
    fencing_token: FencingToken,
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
    params(("name" = String, Path, description = "The lock's name, at most 200 bytes", example = "deploy-prod"), InspectParams),
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
    let Standing { held, waiting, position } = look(&app, &caller, &lock, asking.as_ref()).await?;
    let of_caller = held.as_ref().map(|held| &held.holder).filter(|holder| holder.account == caller.account().account);
    let view = LockView {
        name: lock.name.as_str(),
        namespace: &namespace.name,
        held: held.is_some(),
        holder: of_caller.map(HolderView::new),
        waiting,
        position,
        recovering_until: app.locks.recovering_until(&lock),
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
    description = "Takes it from whoever of the account holds it; with `fencing_token` only if that grant does. Needs the scope `manage`, and is recorded in the audit log. The first in line has the lock then.",
    params(("name" = String, Path, description = "The lock's name, at most 200 bytes", example = "deploy-prod"), BreakParams),
    responses((status = 200, description = "Yes or no: see `response`", body = BreakAnswer), Problems),
)]
pub(super) async fn break_lock(
    State(app): State<Arc<App>>,
    caller: Authorized<Manage>,
    LockPath(name): LockPath,
    params: BreakParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let lock = LockId { namespace: namespace.id, name };
    match break_held(&app, &caller, &lock, namespace, params.fence).await? {
        Ok(holder) => Ok(LockAnswer::yes(&lock.name, namespace, Was { holder: HolderView::new(&holder) })),
        Err(reason) => Ok(LockAnswer::no(&lock.name, namespace, false, NotChanged::from(reason))),
    }
}

/// Breaks the grant that is there, if it is one of the caller's account, and the one with
/// that fence if one is named. Returns whose it was.
pub(super) async fn break_held<P>(
    app: &Arc<App>,
    caller: &Authorized<P>,
    lock: &LockId,
    namespace: &Namespace,
    fence: Option<FencingToken>,
) -> Result<Result<Holder, NotHeld>, Problem> {
    let account = caller.account();
    let holder = match look(app, caller, lock, None).await?.held {
        None => return Ok(Err(NotHeld::Free)),
        Some(held) if held.holder.account != account.account => return Ok(Err(NotHeld::HeldByAnother)),
        Some(held) if fence.is_some_and(|fence| fence != held.holder.fence) => return Ok(Err(NotHeld::HeldByAnother)),
        Some(held) => held.holder,
    };
    let breaking = Breaking {
        by: Actor::Token(account.token),
        by_label: account.label.as_str().to_owned(),
        lock: lock.clone(),
        namespace: namespace.name.clone(),
        holder: holder.clone(),
    };
    Ok(match app.break_grant(breaking).await? {
        BreakOutcome::Broken => Ok(holder),
        BreakOutcome::Refused(reason) => Err(reason),
    })
}

/// Whose the lock was that was broken.
#[derive(Serialize, ToSchema)]
pub(super) struct Was<'a> {
    holder: HolderView<'a>,
}

pub(super) async fn look<P>(
    app: &App,
    caller: &Authorized<P>,
    lock: &LockId,
    asking: Option<&Claimant>,
) -> Result<Standing, Problem> {
    match caller.settle(app.locks.inspect(lock, asking, &caller.payment()).await?) {
        Looked::Found(standing) => Ok(standing),
        Looked::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}
