use std::time::Duration;

use axum::{
    http::{HeaderValue, header},
    response::Response,
};

use super::{
    caller::{Authorized, Lock},
    connection::Connection,
    openapi::{AcquireAnswer, BodyProblems, Problems},
    params::{AcquireParams, malformed},
    problem::{Kind, Problem},
    recheck::Recheck,
    responses::{Granted, LockAnswer, NotAcquired},
};
use crate::{
    app::App,
    lock::{AcquireOutcome, Info, Lease, LockName, Refusal, TokenEnd},
    locks::{AcquireRequest, Answer, Claimant, LockId},
};

/// How soon to ask again after reaching the plan's number of locks or waiting
/// requests: nobody knows when one will be free.
const QUOTA_RETRY_AFTER: Duration = Duration::from_secs(1);

/// `GET` and `POST /v1/acquire/{name}`.
#[utoipa::path(
    post,
    path = "/v1/acquire/{name}",
    tag = "locks",
    summary = "Acquire a lock, or wait for it",
    description = "Grants the lock to one caller, until it releases it or its lease lapses for want of a heartbeat. With `wait` a request that finds the lock held stands in line, first come, first served.",
    params(("name" = String, Path, description = "The lock's name, at most 200 bytes", example = "deploy-prod"), AcquireParams),
    request_body(
        content((AcquireParams = "application/x-www-form-urlencoded"), (AcquireParams = "application/json")),
        description = "Parameters that do not stand in the query string"
    ),
    responses(
        (status = 200, description = "Yes or no: see `response`", body = AcquireAnswer),
        (status = 423, description = "The \"no\" of a request with `strict=true`", body = AcquireAnswer),
        Problems,
        BodyProblems,
    ),
)]
pub(super) async fn acquire(
    app: &App,
    connection: &Connection,
    caller: &Authorized<Lock>,
    name: LockName,
    params: AcquireParams,
) -> Result<Response, Problem> {
    // Taken apart, lest there be room for them twice while the request waits.
    let AcquireParams { namespace, owner, lease, wait, note, strict } = params;
    let namespace = caller.namespace(namespace.as_deref())?;
    let account = caller.account();
    let request = AcquireRequest {
        lock: LockId { namespace: namespace.id, name },
        claimant: Claimant { account: account.account, owner },
        lease: caller.lease(lease)?,
        is_lease_asked: lease.is_some(),
        label: account.label.clone(),
        token: TokenEnd::of(account.token),
        note,
        info: Info::default(),
        held_max: account.plan.locks_max,
        waiting_max: account.plan.waiters_max,
        payment: caller.payment(),
    };
    let name = &request.lock.name;
    let no = |reason, held: Option<&_>| {
        let more = NotAcquired::new(reason, held, account.account);
        LockAnswer::no(name, namespace, strict, more)
    };
    Ok(match ask(app, connection, caller, &request, wait).await? {
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
        AcquireOutcome::Refused(Refusal::Recovering { rest }) => {
            let more = NotAcquired::recovering(rest);
            LockAnswer::no(name, namespace, strict, more)
        }
        AcquireOutcome::Refused(refusal) => return Err(over_plan(app, caller, &refusal)),
    })
}

/// Asks for the lock, and waits for it if the request says so, as long as its
/// client is there.
pub(super) async fn ask(
    app: &App,
    connection: &Connection,
    caller: &Authorized<Lock>,
    request: &AcquireRequest,
    wait: Duration,
) -> Result<AcquireOutcome, Problem> {
    if wait > app.wait_max {
        let cap = Lease::from_ms(app.wait_max.as_millis() as u64);
        return Err(malformed(format!("the parameter \"wait\" is malformed: its cap is {cap}")));
    }
    let answer: Answer<AcquireOutcome> = if wait.is_zero() {
        // A body may have been long in coming.
        if caller.is_outdated(app) {
            Box::pin(caller.check_again(app)).await?;
        }
        app.locks.acquire(request).await?
    } else {
        caller.may_wait(wait);
        wait_for(app, connection, caller, request, wait).await?
    };
    let acquired = caller.settle(answer);
    if matches!(&acquired, AcquireOutcome::Refused(refusal) if !matches!(refusal, Refusal::RateLimited { .. })) {
        app.locks.note_refused(request.claimant.account);
    }
    Ok(acquired)
}

async fn wait_for(
    app: &App,
    connection: &Connection,
    caller: &Authorized<Lock>,
    request: &AcquireRequest,
    wait: Duration,
) -> Result<Answer<AcquireOutcome>, Problem> {
    let recheck = Recheck::begin(app, caller, request).await?;
    let waiting = async {
        let waited = app.locks.acquire_in_line(request, wait, &app.draining).await?;
        if waited.has_grant() {
            recheck.confirm().await?;
        }
        Ok(waited.keep())
    };
    tokio::select! {
        // Looked at first: what is granted to a client that is gone, or to a token that was
        // revoked, is dropped here, and taken back.
        biased;
        () = connection.hung_up() => Err(Problem::new(Kind::ClientGone, "the client has hung up")),
        problem = recheck.refusal() => Err(problem),
        answer = waiting => answer,
    }
}

/// The problem of a refusal that is the plan's.
pub(super) fn over_plan(app: &App, caller: &Authorized<Lock>, refusal: &Refusal) -> Problem {
    let plan = &caller.account().plan;
    match refusal {
        Refusal::OverQuota { held } => {
            let detail = format!("the account holds {held} locks, {} at most are in its plan", plan.locks_max);
            Problem::new(Kind::TooManyLocks, detail).retry_after(QUOTA_RETRY_AFTER)
        }
        Refusal::TooManyWaiting { waiting } => {
            let detail =
                format!("{waiting} requests of the account wait, {} at most are in its plan", plan.waiters_max);
            Problem::new(Kind::TooManyWaiting, detail).retry_after(QUOTA_RETRY_AFTER)
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
