use std::time::Duration;

use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use tokio::sync::Notify;

use super::{
    caller::{Authorized, CanLock},
    connection::Connection,
    openapi::{AcquireAnswer, BodyProblems, Problems},
    params::{AcquireParams, malformed},
    problem::{Problem, ProblemKind},
    recheck::Recheck,
    responses::{Granted, LockAnswer, NotAcquired},
};
use crate::{
    app::App,
    lock::{AcquireOutcome, Info, Lease, LockName, Refusal, TokenEnd},
    locks::{AcquireRequest, Claimant, LockKey, UnconfirmedOutcome, WithRate},
};

/// The `Retry-After` at the plan's limit of locks or queued requests: the server cannot predict when one
/// becomes free.
const QUOTA_RETRY_AFTER: Duration = Duration::from_secs(1);

/// `GET` and `POST /v1/acquire/{name}`.
#[utoipa::path(
    post,
    path = "/v1/acquire/{name}",
    tag = "locks",
    summary = "Acquire a lock, or wait for it",
    description = "Grants the lock to one caller until it releases the lock or its lease expires without a heartbeat. With `wait`, a request for a held lock waits in a FIFO queue.",
    params(("name" = String, Path, description = "Lock name, at most 200 bytes", example = "deploy-prod"), AcquireParams),
    request_body(
        content((AcquireParams = "application/x-www-form-urlencoded"), (AcquireParams = "application/json")),
        description = "Parameters that are not in the query string"
    ),
    responses(
        (status = 200, description = "`response` is `true` if the lock was acquired, else `false`", body = AcquireAnswer),
        (status = 423, description = "`response` is `false`; only for a request with `strict=true`", body = AcquireAnswer),
        Problems,
        BodyProblems,
    ),
)]
pub(super) async fn acquire(
    app: &App,
    connection: &Connection,
    caller: &Authorized<CanLock>,
    name: LockName,
    params: AcquireParams,
) -> Result<Response, Problem> {
    // Destructured: the future would otherwise contain the parameters twice while the request waits.
    let AcquireParams { namespace, owner, lease, wait, note, strict } = params;
    let namespace = caller.namespace(namespace.as_deref())?;
    let account = caller.account();
    let request = AcquireRequest {
        lock: LockKey { namespace: namespace.id, name },
        claimant: Claimant { account: account.account, owner },
        lease: caller.lease(lease)?,
        is_lease_asked: lease.is_some(),
        label: account.label.clone(),
        token: TokenEnd::of(account.token),
        note,
        info: Info::default(),
        held_max: account.plan.locks_max,
        waiting_max: account.plan.waiters_max,
        charge: caller.charge(),
    };
    let name = &request.lock.name;
    let no = |reason, held: Option<&_>| {
        let more = NotAcquired::new(reason, held, account.account);
        LockAnswer::no(name, namespace, strict, more)
    };
    Ok(match acquire_or_wait(app, connection, caller, &request, wait).await? {
        AcquireOutcome::Granted(grant) => {
            LockAnswer::yes(name, namespace, Granted::new(&grant, request.claimant.owner.as_ref()))
        }
        AcquireOutcome::Again(grant) => {
            LockAnswer::yes(name, namespace, Granted::again(&grant, request.claimant.owner.as_ref()))
        }
        AcquireOutcome::Refused(Refusal::Held(held)) => no(NotAcquired::HELD, Some(&held)),
        AcquireOutcome::Refused(Refusal::Replaced(held)) => no(NotAcquired::REPLACED, Some(&held)),
        AcquireOutcome::Refused(Refusal::Cancelled) => no(NotAcquired::CANCELLED, None),
        AcquireOutcome::Refused(Refusal::TimedOut(held)) => no(NotAcquired::TIMED_OUT, held.as_ref()),
        AcquireOutcome::Refused(Refusal::Draining(held)) => {
            let mut answer = no(NotAcquired::DRAINING, held.as_ref());
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("0"));
            answer
        }
        AcquireOutcome::Refused(Refusal::Recovering { remaining }) => {
            let more = NotAcquired::recovering(remaining);
            LockAnswer::no(name, namespace, strict, more)
        }
        AcquireOutcome::Refused(refusal) => return Err(plan_refusal(app, caller, &refusal)),
    })
}

/// Acquires the lock, and waits for it up to `wait`, while the client stays connected. The connection
/// confirms a grant to a client that has closed its sending side.
pub(super) async fn acquire_or_wait(
    app: &App,
    connection: &Connection,
    caller: &Authorized<CanLock>,
    request: &AcquireRequest,
    wait: Duration,
) -> Result<AcquireOutcome, Problem> {
    if wait > app.wait_max {
        let cap = Lease::from_ms(app.wait_max.as_millis() as u64);
        return Err(malformed(format!("the parameter \"wait\" is malformed: it is longer than the limit of {cap}")));
    }
    let unconfirmed = if wait.is_zero() {
        // Receiving the body may have taken long enough for the account to change.
        if caller.is_outdated(app) {
            Box::pin(caller.check_again(app)).await?;
        }
        app.locks.acquire_unconfirmed(request).await?
    } else {
        caller.extend_deadline(wait);
        wait_for(app, connection, caller, request, wait).await?
    };
    let answer: WithRate<AcquireOutcome> = if unconfirmed.has_grant() && connection.is_half_closed() {
        let (answer, revert) = unconfirmed.confirm_later();
        if let Some(revert) = revert {
            connection.set_unconfirmed_grant(revert);
        }
        answer
    } else {
        unconfirmed.confirm()
    };
    let acquired = caller.record_rate(answer);
    if matches!(&acquired, AcquireOutcome::Refused(refusal) if !matches!(refusal, Refusal::RateLimited { .. })) {
        app.locks.count_refused(request.claimant.account);
    }
    Ok(acquired)
}

async fn wait_for<'a>(
    app: &'a App,
    connection: &Connection,
    caller: &Authorized<CanLock>,
    request: &'a AcquireRequest,
    wait: Duration,
) -> Result<UnconfirmedOutcome<'a>, Problem> {
    let recheck = Recheck::begin(app, caller, request).await?;
    let queued = Notify::new();
    let waiting = async {
        let waited = app.locks.acquire_waiting(request, wait, &app.draining, &queued).await?;
        if waited.has_grant() {
            recheck.confirm().await?;
        }
        Ok(waited)
    };
    // Until the request is queued, the server can answer a client that has closed its sending side.
    let closed = async {
        queued.notified().await;
        connection.client_closed().await;
    };
    tokio::select! {
        // Biased: a grant to a disconnected client or a revoked token must be dropped, which reverts it.
        biased;
        () = closed => Err(Problem::new(
            ProblemKind::ClientGone,
            "the client closed its connection or its sending side while its request waited; keep both open",
        )),
        problem = recheck.refusal() => Err(problem),
        answer = waiting => answer,
    }
}

/// The problem for a refusal by the plan's limits.
pub(super) fn plan_refusal(app: &App, caller: &Authorized<CanLock>, refusal: &Refusal) -> Problem {
    let plan = &caller.account().plan;
    match refusal {
        Refusal::OverQuota { held } => {
            let detail =
                format!("the account holds {held} locks, and its plan allows {}; release some", plan.locks_max);
            Problem::new(ProblemKind::TooManyLocks, detail).retry_after(QUOTA_RETRY_AFTER)
        }
        Refusal::TooManyWaiting { waiting } => {
            let detail =
                format!("the account has {waiting} queued requests, and its plan allows {}; retry", plan.waiters_max);
            Problem::new(ProblemKind::TooManyWaiting, detail).retry_after(QUOTA_RETRY_AFTER)
        }
        Refusal::RateLimited { retry_after } => caller.rate_limited(app, *retry_after),
        Refusal::Held(_)
        | Refusal::TimedOut(_)
        | Refusal::Replaced(_)
        | Refusal::Cancelled
        | Refusal::Draining(_)
        | Refusal::Recovering { .. } => Problem::internal(),
    }
}
