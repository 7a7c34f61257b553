//! What Terraform's and OpenTofu's `http` backend asks of a server that locks.

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
    acquire::{ask, over_plan},
    caller::{Authorized, Lock, Manage},
    connection::Connection,
    lock::{break_held, look},
    lock_path::LockPath,
    openapi::{AcquireAnswer, Problems, ReleaseAnswer},
    params::{Body, LockParams, malformed_body},
    problem::{Kind, Problem, ProblemView},
    release::audit_release,
    responses::{Granted, LockAnswer, NotChanged, Nothing},
};
use crate::{
    app::App,
    lock::{
        AccountId, AcquireOutcome, Holder, Info, Lease, LockName, Namespace, NotHeld, Note, Owner, Refusal,
        ReleaseOutcome, TokenEnd,
    },
    locks::{AcquireRequest, Claimant, LockId, ReleaseRequest},
};

/// What Terraform says of a lock, as far as it is understood here. It is kept,
/// and handed out, as it came.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct LockInfo {
    /// Names the lock's holder; Terraform makes a new one for each run.
    #[serde(rename = "ID")]
    #[schema(required, example = "8d0e1e1c-5a5e-4f0e-9d43-3a1f6f0c2b77")]
    id: String,
    operation: String,
    info: String,
    who: String,
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")] // Terraform reads a time here, or fails.
    created: String,
    path: String,
}

/// `/v1/terraform/{name}`: `LOCK` and `UNLOCK`, which may also be called `POST`
/// and `DELETE`.
pub(super) async fn terraform(
    operation: Operation,
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Connection>,
    caller: Authorized<Lock>,
    LockPath(name): LockPath,
    params: LockParams,
    Body(body): Body,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let lock = LockId { namespace: namespace.id, name };
    match operation {
        Operation::Lock => acquire(&app, &connection, &caller, lock, namespace, &params, &body).await,
        Operation::Unlock if body.trim().is_empty() => force_unlock(&app, &caller, lock, namespace).await,
        Operation::Unlock => unlock(&app, &caller, lock, namespace, &body).await,
    }
}

/// What the method asks for. axum has no name for `LOCK` and `UNLOCK`, so it lets
/// all methods through.
pub(super) enum Operation {
    Lock,
    Unlock,
}

impl<S: Sync> FromRequestParts<S> for Operation {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        match parts.method.as_str() {
            "LOCK" | "POST" => Ok(Self::Lock),
            "UNLOCK" | "DELETE" => Ok(Self::Unlock),
            _ => {
                let detail = "only LOCK, UNLOCK, POST and DELETE are allowed here";
                let mut response = Problem::new(Kind::MethodNotAllowed, detail).into_response();
                let allowed = HeaderValue::from_static("LOCK, UNLOCK, POST, DELETE");
                response.headers_mut().insert(header::ALLOW, allowed);
                Err(response)
            }
        }
    }
}

/// Locks for the run that sends its `LockInfo`.
#[utoipa::path(
    post,
    path = "/v1/terraform/{name}",
    operation_id = "terraform_lock",
    summary = "Lock for a run",
    description = "The same `ID` again is granted again. The body has at most 2 KiB, and a longer one is answered 400. Without `lease` the lock is held for the longest lease of the plan.",
    tag = "terraform",
    params(("name" = String, Path, description = "The lock's name, at most 200 bytes", example = "terraform-prod"), LockParams),
    request_body = LockInfo,
    responses(
        (status = 200, description = "Locked", body = AcquireAnswer),
        (status = 423, description = "Held by this one", body = LockInfo),
        (status = 413, description = "The body is too large", body = ProblemView<'static>, content_type = "application/problem+json"),
        Problems,
    ),
)]
pub(super) async fn acquire(
    app: &App,
    connection: &Connection,
    caller: &Authorized<Lock>,
    lock: LockId,
    namespace: &Namespace,
    params: &LockParams,
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
        payment: caller.payment(),
    };
    let name = &request.lock.name;
    match ask(app, connection, caller, &request, params.wait).await? {
        AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant) => {
            Ok(LockAnswer::yes(name, namespace, Granted::new(&grant, request.claimant.owner.as_ref())))
        }
        AcquireOutcome::Refused(Refusal::Held(held) | Refusal::Replaced(held) | Refusal::TimedOut(Some(held))) => {
            Ok(locked(&held.holder, account.account, name))
        }
        AcquireOutcome::Refused(Refusal::TimedOut(None) | Refusal::Cancelled | Refusal::Draining(_)) => {
            Err(Problem::unavailable("the lock could not be waited for here"))
        }
        AcquireOutcome::Refused(Refusal::Recovering { rest }) => {
            Err(Problem::unavailable("grants may have been forgotten, and none are made for now").retry_after(rest))
        }
        AcquireOutcome::Refused(refusal) => Err(over_plan(app, caller, &refusal)),
    }
}

/// Terraform sends no heartbeats, so a run has the longest lease of the plan unless it asks for
/// another.
fn lease(caller: &Authorized<Lock>, params: &LockParams) -> Result<Lease, Problem> {
    /// A plan whose leases are shorter cannot serve runs.
    const LONG_ENOUGH: Lease = Lease::from_secs(600);
    let plan = &caller.account().plan;
    if plan.lease_max < LONG_ENOUGH {
        let (name, max) = (&plan.name, plan.lease_max);
        let detail = format!(
            "Terraform sends no heartbeats, and leases of the plan \"{name}\" are {max} at most, shorter than most runs; \
             use a plan with leases of {LONG_ENOUGH} or more, or run Terraform under `lockable run`"
        );
        return Err(Problem::new(Kind::LeaseOutOfRange, detail));
    }
    caller.lease(Some(params.lease.unwrap_or(plan.lease_max)))
}

/// A lock that is not held (any more) counts as unlocked: the request may have
/// been sent again because its answer was lost.
#[utoipa::path(
    delete,
    path = "/v1/terraform/{name}",
    operation_id = "terraform_unlock",
    summary = "Unlock after a run",
    description = "A lock that is not held any more counts as unlocked. `lease` and `wait` are for locking and change nothing here: both addresses may be the same.",
    tag = "terraform",
    params(("name" = String, Path, description = "The lock's name, at most 200 bytes", example = "terraform-prod"), LockParams),
    request_body(content = LockInfo, description = "What was locked with, or its ID. No body at all means whoever holds the lock, and needs the scope `manage`"),
    responses(
        (status = 200, description = "Unlocked, or not held any more", body = ReleaseAnswer),
        (status = 423, description = "Held by this one", body = LockInfo),
        (status = 413, description = "The body is too large", body = ProblemView<'static>, content_type = "application/problem+json"),
        Problems,
    ),
)]
pub(super) async fn unlock(
    app: &App,
    caller: &Authorized<Lock>,
    lock: LockId,
    namespace: &Namespace,
    body: &str,
) -> Result<Response, Problem> {
    let (_, owner) = read(body)?;
    let claimant = Claimant { account: caller.account().account, owner: Some(owner) };
    let token = TokenEnd::of(caller.account().token);
    let request = ReleaseRequest { lock, claimant, fence: None, token, payment: caller.payment() };
    let ReleaseRequest { lock, .. } = &request;
    match caller.settle(app.locks.release(&request).await?) {
        ReleaseOutcome::Released => Ok(LockAnswer::yes(&lock.name, namespace, Nothing {})),
        ReleaseOutcome::ByAnother(by_another) => {
            audit_release(app, caller, &request, namespace, *by_another);
            Ok(LockAnswer::yes(&lock.name, namespace, Nothing {}))
        }
        ReleaseOutcome::Refused(reason) => unlocked_unless_held(app, caller, lock, namespace, reason).await,
        ReleaseOutcome::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}

/// `terraform force-unlock` sends no body, and means whoever holds the lock.
async fn force_unlock(
    app: &Arc<App>,
    caller: &Authorized<Lock>,
    lock: LockId,
    namespace: &Namespace,
) -> Result<Response, Problem> {
    caller.demand::<Manage>()?;
    match break_held(app, caller, &lock, namespace, None).await? {
        Ok(_) => Ok(LockAnswer::yes(&lock.name, namespace, Nothing {})),
        Err(reason) => unlocked_unless_held(app, caller, &lock, namespace, reason).await,
    }
}

async fn unlocked_unless_held(
    app: &App,
    caller: &Authorized<Lock>,
    lock: &LockId,
    namespace: &Namespace,
    reason: NotHeld,
) -> Result<Response, Problem> {
    let held = match reason {
        NotHeld::Free => None,
        NotHeld::HeldByAnother => look(app, caller, lock, None).await?.held,
    };
    Ok(match held {
        Some(held) => locked(&held.holder, caller.account().account, &lock.name),
        None => LockAnswer::no(&lock.name, namespace, false, NotChanged::from(NotHeld::Free)),
    })
}

/// `423` with what the holder has said of itself. Terraform shows it, and tries
/// again only where it finds an ID.
fn locked(holder: &Holder, caller: AccountId, name: &LockName) -> Response {
    if holder.account == caller && !holder.info.as_str().is_empty() {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        return (StatusCode::LOCKED, json, holder.info.as_str().to_owned()).into_response();
    }
    (StatusCode::LOCKED, Json(LockInfo::of_stranger(holder, caller, name))).into_response()
}

fn read(body: &str) -> Result<(LockInfo, Owner), Problem> {
    let info: LockInfo =
        serde_json::from_str(body).map_err(|error| malformed_body(format!("the body is no LockInfo: {error}")))?;
    let owner =
        Owner::parse(&*info.id).map_err(|error| malformed_body(format!("the lock's ID is malformed: {error}")))?;
    Ok((info, owner))
}

/// The body as it came, which is JSON, on one line: in JSON line ends stand between values
/// alone.
fn one_line(body: &str) -> Result<Info, Problem> {
    let line = body.trim().replace(['\n', '\r', '\t'], " ");
    Info::parse(line).map_err(|error| malformed_body(format!("the body is too much: {error}")))
}

/// What is made of a body, for the fuzzer.
#[cfg(fuzzing)]
pub(super) fn fuzz(body: &str) {
    if let (Ok((info, owner)), Ok(kept)) = (read(body), one_line(body)) {
        assert_eq!(info.id, owner.as_str());
        let _ = info.note();
        assert!(!kept.as_str().contains('\n'));
    }
}

impl LockInfo {
    /// What people see who look at the lock elsewhere.
    fn note(&self) -> Note {
        let operation = self.operation.strip_prefix("OperationType").unwrap_or(&self.operation).to_lowercase();
        Note::parse(format!("terraform {operation}, by {}", self.who)).unwrap_or_default()
    }

    /// Of a holder that came by another way, or is of another account, which is
    /// not told who it is.
    fn of_stranger(holder: &Holder, caller: AccountId, name: &LockName) -> Self {
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
