use axum::response::Response;

use super::{
    caller::{Authorized, Lock},
    openapi::{BodyProblems, HeartbeatAnswer, Problems},
    params::HeartbeatParams,
    problem::Problem,
    responses::{LockAnswer, NotChanged, Renewed},
};
use crate::{
    app::App,
    lock::{HeartbeatOutcome, LockName},
    locks::{Claimant, HeartbeatRequest, LockId},
};

/// `GET` and `POST /v1/heartbeat/{name}`.
#[utoipa::path(
    post,
    path = "/v1/heartbeat/{name}",
    tag = "locks",
    summary = "Renew a lease",
    description = "Send one at a third of the lease, and stop working when the answer is no. Without `lease` it is the one that was asked for last.",
    params(("name" = String, Path, description = "The lock's name, at most 200 bytes", example = "deploy-prod"), HeartbeatParams),
    request_body(
        content((HeartbeatParams = "application/x-www-form-urlencoded"), (HeartbeatParams = "application/json")),
        description = "Parameters that do not stand in the query string"
    ),
    responses(
        (status = 200, description = "Yes or no: see `response`", body = HeartbeatAnswer),
        (status = 423, description = "The \"no\" of a request with `strict=true`", body = HeartbeatAnswer),
        Problems,
        BodyProblems,
    ),
)]
pub(super) async fn heartbeat(
    app: &App,
    caller: &Authorized<Lock>,
    name: LockName,
    params: HeartbeatParams,
) -> Result<Response, Problem> {
    // A body may have been long in coming.
    if caller.is_outdated(app) {
        Box::pin(caller.check_again(app)).await?;
    }
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let request = HeartbeatRequest {
        lock: LockId { namespace: namespace.id, name },
        claimant: Claimant { account: caller.account().account, owner: params.owner },
        lease: caller.renewed_lease(params.lease)?,
        fence: params.fence,
        payment: caller.payment(),
    };
    let name = &request.lock.name;
    match caller.settle(app.locks.heartbeat(&request).await?) {
        HeartbeatOutcome::Renewed(grant) => Ok(LockAnswer::yes(name, namespace, Renewed::new(&grant))),
        HeartbeatOutcome::Refused(reason) => {
            Ok(LockAnswer::no(name, namespace, params.strict, NotChanged::from(reason)))
        }
        HeartbeatOutcome::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}
