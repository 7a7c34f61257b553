use axum::response::Response;

use super::{
    caller::{Authorized, CanLock},
    openapi::{BodyProblems, Problems, ReleaseAnswer},
    params::ReleaseParams,
    problem::Problem,
    responses::{LockAnswer, NoFields, NotChanged},
};
use crate::{
    app::{App, ReleaseByOtherToken},
    lock::{ByAnother, LockName, Namespace, ReleaseOutcome, TokenEnd},
    locks::{Claimant, LockKey, ReleaseRequest},
};

/// `GET` and `POST /v1/release/{name}`.
#[utoipa::path(
    post,
    path = "/v1/release/{name}",
    tag = "locks",
    summary = "Release a lock",
    description = "The lock passes to the first waiter at once. Any token of the account may release the account's locks; the audit log records a release by a token other than the acquiring one.",
    params(("name" = String, Path, description = "Lock name, at most 200 bytes", example = "deploy-prod"), ReleaseParams),
    request_body(
        content((ReleaseParams = "application/x-www-form-urlencoded"), (ReleaseParams = "application/json")),
        description = "Parameters that are not in the query string"
    ),
    responses(
        (status = 200, description = "`response` is `true` if the lock was released, else `false`", body = ReleaseAnswer),
        (status = 423, description = "`response` is `false`; only for a request with `strict=true`", body = ReleaseAnswer),
        Problems,
        BodyProblems,
    ),
)]
pub(super) async fn release(
    app: &App,
    caller: &Authorized<CanLock>,
    name: LockName,
    params: ReleaseParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let request = ReleaseRequest {
        lock: LockKey { namespace: namespace.id, name },
        claimant: Claimant { account: caller.account().account, owner: params.owner },
        fence: params.fence,
        token: TokenEnd::of(caller.account().token),
        charge: caller.charge(),
    };
    let name = &request.lock.name;
    match caller.record_rate(app.locks.release(&request).await?) {
        ReleaseOutcome::Released => Ok(LockAnswer::yes(name, namespace, NoFields {})),
        ReleaseOutcome::ByAnother(by_another) => {
            audit_release(app, caller, &request, namespace, *by_another);
            Ok(LockAnswer::yes(name, namespace, NoFields {}))
        }
        ReleaseOutcome::Refused(reason) => Ok(LockAnswer::no(name, namespace, params.strict, NotChanged::from(reason))),
        ReleaseOutcome::RateLimited { retry_after } => Err(caller.rate_limited(app, retry_after)),
    }
}

/// Records a release by a token other than the acquiring one in the audit log, without delaying the response.
pub(super) fn audit_release(
    app: &App,
    caller: &Authorized<CanLock>,
    request: &ReleaseRequest,
    namespace: &Namespace,
    by_another: ByAnother,
) {
    let account = caller.account();
    app.release_audit.record(ReleaseByOtherToken {
        by: account.token,
        by_label: account.label.clone(),
        claimant: request.claimant.clone(),
        namespace: namespace.name.clone(),
        name: request.lock.name.clone(),
        acquired: by_another,
    });
}
