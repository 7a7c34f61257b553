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
    caller::{Authorized, CanManage, CanRead},
    lock_path::LockPath,
    openapi::{BreakAnswer, Problems},
    params::{BreakParams, InspectParams},
    problem::Problem,
    responses::{LockAnswer, NotChanged, optional_rfc_3339, rfc_3339},
};
use crate::{
    accounts::Actor,
    app::{App, AuditedBreak},
    lock::{BreakOutcome, FencingToken, Holder, LockState, Namespace, NotHeld, Owner},
    locks::{Claimant, LockKey, ReadOutcome},
};

/// The state of a lock.
#[derive(Serialize, ToSchema)]
pub(super) struct LockView<'a> {
    name: &'a str,
    namespace: &'a str,
    held: bool,
    /// Omitted if the lock is free or another account holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<HolderView<'a>>,
    /// Number of queued requests.
    waiting: u64,
    /// Queue position of the owner in the parameter `owner`, counted from 1; omitted if it is not queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    /// During a recovery: the earliest time of the next grant. Omitted otherwise.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_rfc_3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    recovering_until: Option<Timestamp>,
}

/// The holder of a lock, visible to its own account.
#[derive(Serialize, ToSchema)]
pub(super) struct HolderView<'a> {
    owner: Option<&'a str>,
    note: &'a str,
    /// Label of the token that acquired the lock.
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
    tag = "inspection",
    summary = "Inspect a lock",
    description = "Returns whether the lock is held, its holder and the length of its queue. Only callers of the holder's account get the holder.",
    params(("name" = String, Path, description = "Lock name, at most 200 bytes", example = "deploy-prod"), InspectParams),
    responses((status = 200, description = "State of the lock", body = LockView<'static>), Problems),
)]
pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    caller: Authorized<CanRead>,
    LockPath(name): LockPath,
    params: InspectParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let lock = LockKey { namespace: namespace.id, name };
    let claimant = params.owner.map(|owner| Claimant { account: caller.account().account, owner: Some(owner) });
    let LockState { held, waiting, position } = inspect_lock(&app, &caller, &lock, claimant.as_ref()).await?;
    let visible = held.as_ref().map(|held| &held.holder).filter(|holder| holder.account == caller.account().account);
    let view = LockView {
        name: lock.name.as_str(),
        namespace: &namespace.name,
        held: held.is_some(),
        holder: visible.map(HolderView::new),
        waiting,
        position,
        recovering_until: app.locks.recovering_until(&lock),
    };
    Ok(Json(view).into_response())
}

/// `DELETE /v1/locks/{name}`: breaks the current grant. The audit log records every break.
#[utoipa::path(
    delete,
    path = "/v1/locks/{name}",
    tag = "inspection",
    summary = "Break a lock",
    description = "Ends the current grant of the account; with `fencing_token` only the grant with this token. Needs the scope `manage`, and is recorded in the audit log. The lock passes to the first waiter.",
    params(("name" = String, Path, description = "Lock name, at most 200 bytes", example = "deploy-prod"), BreakParams),
    responses((status = 200, description = "`response` is `true` if the grant was ended, else `false`", body = BreakAnswer), Problems),
)]
pub(super) async fn break_lock(
    State(app): State<Arc<App>>,
    caller: Authorized<CanManage>,
    LockPath(name): LockPath,
    params: BreakParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let lock = LockKey { namespace: namespace.id, name };
    match break_held(&app, &caller, &lock, namespace, params.fence).await? {
        Ok(holder) => Ok(LockAnswer::yes(&lock.name, namespace, BrokenHolder { holder: HolderView::new(&holder) })),
        Err(reason) => Ok(LockAnswer::no(&lock.name, namespace, false, NotChanged::from(reason))),
    }
}

/// Breaks the current grant, if it belongs to the caller's account and has the given fencing token, if
/// any. Returns its holder.
pub(super) async fn break_held<P>(
    app: &Arc<App>,
    caller: &Authorized<P>,
    lock: &LockKey,
    namespace: &Namespace,
    fence: Option<FencingToken>,
) -> Result<Result<Holder, NotHeld>, Problem> {
    let account = caller.account();
    let holder = match inspect_lock(app, caller, lock, None).await?.held {
        None => return Ok(Err(NotHeld::Free)),
        Some(held) if held.holder.account != account.account => return Ok(Err(NotHeld::HeldByAnother)),
        Some(held) if fence.is_some_and(|fence| fence != held.holder.fence) => return Ok(Err(NotHeld::HeldByAnother)),
        Some(held) => held.holder,
    };
    let requested = AuditedBreak {
        by: Actor::Token(account.token),
        by_label: account.label.as_str().to_owned(),
        lock: lock.clone(),
        namespace: namespace.name.clone(),
        holder: holder.clone(),
    };
    Ok(match app.break_grant(requested).await? {
        BreakOutcome::Broken => Ok(holder),
        BreakOutcome::Refused(reason) => Err(reason),
    })
}

/// The holder of the broken grant.
#[derive(Serialize, ToSchema)]
pub(super) struct BrokenHolder<'a> {
    holder: HolderView<'a>,
}

pub(super) async fn inspect_lock<P>(
    app: &App,
    caller: &Authorized<P>,
    lock: &LockKey,
    claimant: Option<&Claimant>,
) -> Result<LockState, Problem> {
    match caller.record_rate(app.locks.inspect(lock, claimant, &caller.charge()).await?) {
        ReadOutcome::Found(state) => Ok(state),
        ReadOutcome::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}
