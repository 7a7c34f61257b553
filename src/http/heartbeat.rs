use axum::response::Response;

use super::{
    caller::{Authorized, CanLock},
    openapi::{BodyProblems, HeartbeatAnswer, Problems},
    params::HeartbeatParams,
    problem::Problem,
    responses::{LockAnswer, NotChanged, Renewed},
};
use crate::{
    app::App,
    lock::{HeartbeatOutcome, LockName},
    locks::{Claimant, HeartbeatRequest, LockKey},
};

/// `GET` and `POST /v1/heartbeat/{name}`.
#[utoipa::path(
    post,
    path = "/v1/heartbeat/{name}",
    tag = "locks",
    summary = "Renew a lease",
    description = "Extends the lease from now on. Send a heartbeat every third of the lease, and stop working when `response` is `false`. Without `lease` the last requested lease is used.",
    params(("name" = String, Path, description = "Lock name, at most 200 bytes", example = "deploy-prod"), HeartbeatParams),
    request_body(
        content((HeartbeatParams = "application/x-www-form-urlencoded"), (HeartbeatParams = "application/json")),
        description = "Parameters that are not in the query string"
    ),
    responses(
        (status = 200, description = "`response` is `true` if the lease was extended, else `false`", body = HeartbeatAnswer),
        (status = 423, description = "`response` is `false`; only for a request with `strict=true`", body = HeartbeatAnswer),
        Problems,
        BodyProblems,
    ),
)]
pub(super) async fn heartbeat(
    app: &App,
    caller: &Authorized<CanLock>,
    name: LockName,
    params: HeartbeatParams,
) -> Result<Response, Problem> {
    // Receiving the body may have taken long enough for the account to change.
    if caller.is_outdated(app) {
        Box::pin(caller.check_again(app)).await?;
    }
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let request = HeartbeatRequest {
        lock: LockKey { namespace: namespace.id, name },
        claimant: Claimant { account: caller.account().account, owner: params.owner },
        lease: caller.renewed_lease(params.lease)?,
        fence: params.fence,
        charge: caller.charge(),
    };
    let name = &request.lock.name;
    match caller.record_rate(app.locks.heartbeat(&request).await?) {
        HeartbeatOutcome::Renewed(grant) => Ok(LockAnswer::yes(name, namespace, Renewed::new(&grant))),
        HeartbeatOutcome::Refused(reason) => {
            Ok(LockAnswer::no(name, namespace, params.strict, NotChanged::from(reason)))
        }
        HeartbeatOutcome::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}
