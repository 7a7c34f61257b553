use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};

use super::{
    answer::{Granted, LockAnswer, NotAcquired},
    caller::LockCaller,
    lock_path::LockPath,
    params::AcquireParams,
    problem::{Kind, Problem},
};
use crate::{
    app::App,
    lock::{Acquired, Refusal},
    locks::{AcquireRequest, Claimant, LockId},
};

/// How soon to ask again after reaching the plan's number of locks: nobody
/// knows when one will be released.
const QUOTA_RETRY_AFTER: Duration = Duration::from_secs(1);

/// `GET` and `POST /v1/acquire/{name}`.
pub(super) async fn acquire(
    State(app): State<Arc<App>>,
    caller: LockCaller,
    LockPath(name): LockPath,
    params: AcquireParams,
) -> Result<Response, Problem> {
    let namespace = caller.namespace(params.namespace.as_deref())?;
    let account = caller.account();
    let request = AcquireRequest {
        lock: LockId { namespace: namespace.id, name },
        claimant: Claimant { account: account.account, owner: params.owner },
        lease: caller.lease(params.lease)?,
        label: account.label.clone(),
        note: params.note,
        held_max: account.plan.locks_max,
        payment: caller.payment(),
    };
    let name = &request.lock.name;
    match caller.settle(app.locks.acquire(&request).await?) {
        Acquired::Granted(grant) => {
            Ok(LockAnswer::yes(name, namespace, Granted::new(&grant, request.claimant.owner.as_ref())))
        }
        Acquired::Refused(Refusal::Held { holder, rest }) => {
            let shown = (holder.account == account.account).then_some(&holder);
            let held = NotAcquired::held(rest.as_millis() as u64, shown);
            Ok(LockAnswer::no(name, namespace, params.strict, held))
        }
        Acquired::Refused(Refusal::OverQuota { held }) => {
            let detail = format!("the account holds {held} locks, {} at most are in its plan", account.plan.locks_max);
            Err(Problem::new(Kind::TooManyLocks, detail).retry_after(QUOTA_RETRY_AFTER))
        }
        Acquired::Refused(Refusal::RateLimited { retry_after }) => Err(caller.rate_limited(retry_after)),
    }
}
