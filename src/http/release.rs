use axum::response::Response;

use super::{
    caller::{Authorized, Lock},
    openapi::{BodyProblems, Problems, ReleaseAnswer},
    params::ReleaseParams,
    problem::Problem,
    responses::{LockAnswer, NotChanged, Nothing},
};
use crate::{
    app::{App, ForeignRelease},
    lock::{ByAnother, LockName, Namespace, ReleaseOutcome, TokenEnd},
    locks::{Claimant, LockId, ReleaseRequest},
};

/// `GET` and `POST /v1/release/{name}`.
#[utoipa::path(
    post,
    path = "/v1/release/{name}",
    tag = "locks",
    summary = "Release a lock",
    description = "The first in line has it at once. Any token of the account may release its locks; who releases what another token has acquired is in the audit log.",
    params(("name" = String, Path, description = "The lock's name, at most 200 bytes", example = "deploy-prod"), ReleaseParams),
    request_body(
        content((ReleaseParams = "application/x-www-form-urlencoded"), (ReleaseParams = "application/json")),
        description = "Parameters that do not stand in the query string"
    ),
    responses(
        (status = 200, description = "Yes or no: see `response`", body = ReleaseAnswer),
        (status = 423, description = "The \"no\" of a request with `strict=true`", body = ReleaseAnswer),
        Problems,
        BodyProblems,
    ),
)]
pub(super) async fn release(
    app: &App,
    caller: &Authorized<Lock>,
    name: LockName,
    params: ReleaseParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let request = ReleaseRequest {
        lock: LockId { namespace: namespace.id, name },
        claimant: Claimant { account: caller.account().account, owner: params.owner },
        fence: params.fence,
        token: TokenEnd::of(caller.account().token),
        payment: caller.payment(),
    };
    let name = &request.lock.name;
    match caller.settle(app.locks.release(&request).await?) {
        ReleaseOutcome::Released => Ok(LockAnswer::yes(name, namespace, Nothing {})),
        ReleaseOutcome::ByAnother(by_another) => {
            audit_release(app, caller, &request, namespace, *by_another);
            Ok(LockAnswer::yes(name, namespace, Nothing {}))
        }
        ReleaseOutcome::Refused(reason) => Ok(LockAnswer::no(name, namespace, params.strict, NotChanged::from(reason))),
        ReleaseOutcome::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}

/// Has it recorded beside the answer that another token has released a grant.
pub(super) fn audit_release(
    app: &App,
    caller: &Authorized<Lock>,
    request: &ReleaseRequest,
    namespace: &Namespace,
    by_another: ByAnother,
) {
    let account = caller.account();
    app.releases.record(ForeignRelease {
        by: account.token,
        by_label: account.label.clone(),
        claimant: request.claimant.clone(),
        namespace: namespace.name.clone(),
        name: request.lock.name.clone(),
        acquired: by_another,
    });
}
