use std::sync::Arc;

use axum::{extract::State, response::Response};

use super::{
    answer::{LockAnswer, NotChanged, Renewed},
    caller::{Authorized, Lock},
    lock_path::LockPath,
    params::HeartbeatParams,
    problem::Problem,
};
use crate::{
    app::App,
    lock::Heartbeaten,
    locks::{Claimant, HeartbeatRequest, LockId},
};

/// `GET` and `POST /v1/heartbeat/{name}`.
pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    caller: Authorized<Lock>,
    LockPath(name): LockPath,
    params: HeartbeatParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let request = HeartbeatRequest {
        lock: LockId { namespace: namespace.id, name },
        claimant: Claimant { account: caller.account().account, owner: params.owner },
        lease: caller.lease(params.lease)?,
        fence: params.fence,
        payment: caller.payment(),
    };
    let name = &request.lock.name;
    match caller.settle(app.locks.heartbeat(&request).await?) {
        Heartbeaten::Renewed(grant) => Ok(LockAnswer::yes(name, namespace, Renewed::new(&grant))),
        Heartbeaten::Refused(reason) => Ok(LockAnswer::no(name, namespace, params.strict, NotChanged::from(reason))),
        Heartbeaten::RateLimited { retry_after } => Err(caller.rate_limited(retry_after)),
    }
}
