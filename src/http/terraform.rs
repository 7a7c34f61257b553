//! The locking protocol of Terraform's and OpenTofu's `http` backend.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{FromRequestParts, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    acquire::{acquire_or_wait, plan_refusal},
    caller::{Authorized, CanLock, CanManage},
    connection::Connection,
    lock::{break_held, inspect_lock},
    lock_path::LockPath,
    openapi::{AcquireAnswer, Problems, ReleaseAnswer},
    params::{Body, TerraformParams, malformed_body},
    problem::{Problem, ProblemKind, ProblemView},
    release::audit_release,
    responses::{Granted, LockAnswer, NoFields, NotChanged},
};
use crate::{
    app::App,
    lock::{
        AccountId, AcquireOutcome, Holder, Info, Lease, LockName, Namespace, NotHeld, Note, Owner, Refusal,
        ReleaseOutcome, TokenEnd,
    },
    locks::{AcquireRequest, Claimant, LockKey, ReleaseRequest},
};

/// Terraform's description of a lock, as far as the server reads it. The server stores and returns the
/// original text.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase", default)]
#[schema(as = LockInfo)]
pub(super) struct TerraformLockInfo {
    /// Identifies the holder; Terraform generates one for each run.
    #[serde(rename = "ID")]
    #[schema(required, example = "8d0e1e1c-5a5e-4f0e-9d43-3a1f6f0c2b77")]
    id: String,
    operation: String,
    info: String,
    who: String,
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")] // Terraform fails on an empty time.
    created: String,
    path: String,
}

/// `/v1/terraform/{name}`: the methods `LOCK` or `POST`, and `UNLOCK` or `DELETE`.
pub(super) async fn terraform(
    method: TerraformMethod,
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Connection>,
    caller: Authorized<CanLock>,
    LockPath(name): LockPath,
    params: TerraformParams,
    Body(body): Body,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let lock = LockKey { namespace: namespace.id, name };
    match method {
        TerraformMethod::Lock => acquire(&app, &connection, &caller, lock, namespace, &params, &body).await,
        TerraformMethod::Unlock if body.trim().is_empty() => force_unlock(&app, &caller, lock, namespace).await,
        TerraformMethod::Unlock => unlock(&app, &caller, lock, namespace, &body).await,
    }
}

/// The operation of a method. axum cannot route `LOCK` and `UNLOCK`, so the route accepts all methods.
pub(super) enum TerraformMethod {
    Lock,
    Unlock,
}

impl<S: Sync> FromRequestParts<S> for TerraformMethod {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        match parts.method.as_str() {
            "LOCK" | "POST" => Ok(Self::Lock),
            "UNLOCK" | "DELETE" => Ok(Self::Unlock),
            _ => {
                let detail = "this route supports only LOCK, UNLOCK, POST and DELETE";
                let mut response = Problem::new(ProblemKind::MethodNotAllowed, detail).into_response();
                let allowed = HeaderValue::from_static("LOCK, UNLOCK, POST, DELETE");
                response.headers_mut().insert(header::ALLOW, allowed);
                Err(response)
            }
        }
    }
}

/// Acquires the lock for the run that sends its `LockInfo`.
#[utoipa::path(
    post,
    path = "/v1/terraform/{name}",
    operation_id = "terraform_lock",
    summary = "Lock for a run",
    description = "Acquires the lock for the `ID` of the run; repeating the request with the same `ID` succeeds. The method LOCK, which OpenAPI cannot describe, is equivalent to POST. A body longer than 2 KiB gets 400. Without `lease` the grant has the longest lease of the plan.",
    tag = "terraform",
    params(("name" = String, Path, description = "Lock name, at most 200 bytes", example = "terraform-prod"), TerraformParams),
    request_body = TerraformLockInfo,
    responses(
        (status = 200, description = "Locked", body = AcquireAnswer),
        (status = 423, description = "Held by another run, which the body describes", body = TerraformLockInfo),
        (status = 413, description = "The body is too large", body = ProblemView<'static>, content_type = "application/problem+json"),
        Problems,
    ),
)]
pub(super) async fn acquire(
    app: &App,
    connection: &Connection,
    caller: &Authorized<CanLock>,
    lock: LockKey,
    namespace: &Namespace,
    params: &TerraformParams,
    body: &str,
) -> Result<Response, Problem> {
    let account = caller.account();
    let (info, owner) = read(body)?;
    let request = AcquireRequest {
        lock,
        claimant: Claimant { account: account.account, owner: Some(owner) },
        lease: lease(caller, params)?,
        is_lease_asked: true,
        label: account.label.clone(),
        token: TokenEnd::of(account.token),
        note: info.note(),
        info: one_line(body)?,
        held_max: account.plan.locks_max,
        waiting_max: account.plan.waiters_max,
        charge: caller.charge(),
    };
    let name = &request.lock.name;
    match acquire_or_wait(app, connection, caller, &request, params.wait).await? {
        AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant) => {
            Ok(LockAnswer::yes(name, namespace, Granted::new(&grant, request.claimant.owner.as_ref())))
        }
        AcquireOutcome::Refused(Refusal::Held(held) | Refusal::Replaced(held) | Refusal::TimedOut(Some(held))) => {
            Ok(locked(&held.holder, account.account, name))
        }
        AcquireOutcome::Refused(Refusal::TimedOut(None) | Refusal::Cancelled | Refusal::Draining(_)) => {
            Err(Problem::unavailable("the wait for the lock ended without a grant; retry"))
        }
        AcquireOutcome::Refused(Refusal::Recovering { remaining }) => Err(Problem::unavailable(
            "Redis may have lost grants, so the server grants no locks until their leases have expired; retry later",
        )
        .retry_after(remaining)),
        AcquireOutcome::Refused(refusal) => Err(plan_refusal(app, caller, &refusal)),
    }
}

/// The requested lease, or the longest lease of the plan, because Terraform sends no heartbeats.
fn lease(caller: &Authorized<CanLock>, params: &TerraformParams) -> Result<Lease, Problem> {
    /// The minimum of the plan's longest lease: most runs take longer than a shorter lease.
    const LONG_ENOUGH: Lease = Lease::from_secs(600);
    let plan = &caller.account().plan;
    if plan.lease_max < LONG_ENOUGH {
        let (name, max) = (&plan.name, plan.lease_max);
        let detail = format!(
            "Terraform sends no heartbeats, and the longest lease of the plan \"{name}\" is {max}, shorter than most runs; \
             use a plan with leases of {LONG_ENOUGH} or more, or run Terraform under `lockable run`"
        );
        return Err(Problem::new(ProblemKind::LeaseOutOfRange, detail));
    }
    caller.lease(Some(params.lease.unwrap_or(plan.lease_max)))
}

/// Releases the lock of a run. A lock that is not held counts as unlocked: Terraform may repeat a
/// request whose response was lost.
#[utoipa::path(
    delete,
    path = "/v1/terraform/{name}",
    operation_id = "terraform_unlock",
    summary = "Unlock after a run",
    description = "Releases the lock of the run. A lock that is not held counts as unlocked. The method UNLOCK, which OpenAPI cannot describe, is equivalent to DELETE. `lease` and `wait` are ignored, so that `lock_address` and `unlock_address` can be equal.",
    tag = "terraform",
    params(("name" = String, Path, description = "Lock name, at most 200 bytes", example = "terraform-prod"), TerraformParams),
    request_body(content = TerraformLockInfo, description = "The `LockInfo` of the lock request, or only its `ID`. Without a body the request breaks the lock of any holder of the account, and needs the scope `manage`"),
    responses(
        (status = 200, description = "Unlocked, or not held", body = ReleaseAnswer),
        (status = 423, description = "Held by another run, which the body describes", body = TerraformLockInfo),
        (status = 413, description = "The body is too large", body = ProblemView<'static>, content_type = "application/problem+json"),
        Problems,
    ),
)]
pub(super) async fn unlock(
    app: &App,
    caller: &Authorized<CanLock>,
    lock: LockKey,
    namespace: &Namespace,
    body: &str,
) -> Result<Response, Problem> {
    let (_, owner) = read(body)?;
    let claimant = Claimant { account: caller.account().account, owner: Some(owner) };
    let token = TokenEnd::of(caller.account().token);
    let request = ReleaseRequest { lock, claimant, fence: None, token, charge: caller.charge() };
    let ReleaseRequest { lock, .. } = &request;
    match caller.record_rate(app.locks.release(&request).await?) {
        ReleaseOutcome::Released => Ok(LockAnswer::yes(&lock.name, namespace, NoFields {})),
        ReleaseOutcome::ByAnother(by_another) => {
            audit_release(app, caller, &request, namespace, *by_another);
            Ok(LockAnswer::yes(&lock.name, namespace, NoFields {}))
        }
        ReleaseOutcome::Refused(reason) => unlocked_unless_held(app, caller, lock, namespace, reason).await,
        ReleaseOutcome::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}

/// Breaks the lock for `terraform force-unlock`, which sends no body.
async fn force_unlock(
    app: &Arc<App>,
    caller: &Authorized<CanLock>,
    lock: LockKey,
    namespace: &Namespace,
) -> Result<Response, Problem> {
    caller.require::<CanManage>()?;
    match break_held(app, caller, &lock, namespace, None).await? {
        Ok(_) => Ok(LockAnswer::yes(&lock.name, namespace, NoFields {})),
        Err(reason) => unlocked_unless_held(app, caller, &lock, namespace, reason).await,
    }
}

async fn unlocked_unless_held(
    app: &App,
    caller: &Authorized<CanLock>,
    lock: &LockKey,
    namespace: &Namespace,
    reason: NotHeld,
) -> Result<Response, Problem> {
    let held = match reason {
        NotHeld::Free => None,
        NotHeld::HeldByAnother => inspect_lock(app, caller, lock, None).await?.held,
    };
    Ok(match held {
        Some(held) => locked(&held.holder, caller.account().account, &lock.name),
        None => LockAnswer::no(&lock.name, namespace, false, NotChanged::from(NotHeld::Free)),
    })
}

/// The `423` response with the holder's `LockInfo`. Terraform displays it, and retries only if it has an
/// ID.
fn locked(holder: &Holder, caller: AccountId, name: &LockName) -> Response {
    if holder.account == caller && !holder.info.as_str().is_empty() {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        return (StatusCode::LOCKED, json, holder.info.as_str().to_owned()).into_response();
    }
    (StatusCode::LOCKED, Json(TerraformLockInfo::for_other_holder(holder, caller, name))).into_response()
}

fn read(body: &str) -> Result<(TerraformLockInfo, Owner), Problem> {
    let info: TerraformLockInfo =
        serde_json::from_str(body).map_err(|error| malformed_body(format!("the body is not a LockInfo: {error}")))?;
    let owner =
        Owner::parse(&*info.id).map_err(|error| malformed_body(format!("the lock's ID is malformed: {error}")))?;
    Ok((info, owner))
}

/// The original body on one line. In JSON, line ends occur only between values.
fn one_line(body: &str) -> Result<Info, Problem> {
    let line = body.trim().replace(['\n', '\r', '\t'], " ");
    Info::parse(line).map_err(|error| malformed_body(format!("the body cannot be stored: {error}")))
}

/// The fuzz target of the body.
#[cfg(fuzzing)]
pub(super) fn fuzz(body: &str) {
    if let (Ok((info, owner)), Ok(kept)) = (read(body), one_line(body)) {
        assert_eq!(info.id, owner.as_str());
        let _ = info.note();
        assert!(!kept.as_str().contains('\n'));
    }
}

impl TerraformLockInfo {
    /// The note that other interfaces show for the lock.
    fn note(&self) -> Note {
        let operation = self.operation.strip_prefix("OperationType").unwrap_or(&self.operation).to_lowercase();
        Note::parse(format!("terraform {operation}, by {}", self.who)).unwrap_or_default()
    }

    /// Describes a holder that did not send a `LockInfo`, or one of another account, without its name.
    fn for_other_holder(holder: &Holder, caller: AccountId, name: &LockName) -> Self {
        let path = name.to_string();
        if holder.account != caller {
            let who = "another account".to_owned();
            return Self { id: "held-by-another-account".into(), who, path, ..Self::default() };
        }
        Self {
            id: holder.owner.as_ref().map_or_else(|| holder.fence.to_string(), |owner| owner.as_str().to_owned()),
            info: holder.note.as_str().to_owned(),
            who: holder.label.as_str().to_owned(),
            created: format!("{:.3}", holder.acquired_at),
            path,
            ..Self::default()
        }
    }
}
