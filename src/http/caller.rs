use std::{marker::PhantomData, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, request::Parts},
};
use metrics::counter;

use super::{
    basic::{Credentials, credentials},
    frame::Frame,
    problem::{Kind, Problem},
    stranger::{Stranger, unauthenticated},
};
use crate::{
    accounts::{Caller, LeaseOutOfRange, NamespaceDenied, Scopes},
    app::App,
    limits::{Admission, Permit},
    lock::{Lease, Namespace, Payment, RateStanding},
    locks::Answer,
};

/// A caller whose token has the privilege `P`, and whose request has been
/// counted, or will be by the script that serves it. A handler says by this type
/// what it takes to be let in.
pub(super) struct Authorized<P> {
    caller: Arc<Caller>,
    permit: Permit,
    frame: Arc<Frame>,
    app: Arc<App>,
    privilege: PhantomData<P>,
}

/// What a token must be for.
pub(super) trait Privilege: Send {
    /// The scope that is missing, if it is.
    fn missing(scopes: Scopes) -> Option<&'static str>;
}

/// Acquiring, heartbeats and releases.
pub(super) struct Lock;
/// Looking after the account.
pub(super) struct Manage;
/// Looking at what is the account's: whatever a token is for.
pub(super) struct Look;

impl Privilege for Lock {
    fn missing(scopes: Scopes) -> Option<&'static str> {
        (!scopes.lock).then_some("lock")
    }
}

impl Privilege for Manage {
    fn missing(scopes: Scopes) -> Option<&'static str> {
        (!scopes.manage).then_some("manage")
    }
}

impl Privilege for Look {
    fn missing(_: Scopes) -> Option<&'static str> {
        None
    }
}

impl<P: Privilege> FromRequestParts<Arc<App>> for Authorized<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        refuse_prefetch(&parts.headers)?;
        let caller = authenticate(parts, app).await?;
        let frame = parts.extensions.get::<Arc<Frame>>().cloned().unwrap_or_default();
        let permit = match app.tokens.admit(caller.token, caller.plan.rate).await? {
            Admission::Admitted(permit) => permit,
            Admission::Refused { retry_after, standing } => {
                frame.note_standing(standing);
                return Err(rate_limited(app, &caller).retry_after(retry_after));
            }
        };
        frame.note_standing(permit.standing());
        if caller.suspended {
            return Err(Problem::new(Kind::AccountSuspended, "this account is suspended"));
        }
        check::<P>(&caller)?;
        Ok(Self { caller, permit, frame, app: app.clone(), privilege: PhantomData })
    }
}

fn check<P: Privilege>(caller: &Caller) -> Result<(), Problem> {
    match P::missing(caller.scopes) {
        Some(scope) => Err(Problem::new(Kind::ScopeMissing, format!("this token does not have the scope \"{scope}\""))),
        None => Ok(()),
    }
}

impl<P> Authorized<P> {
    /// Checks for another privilege, which only some requests need.
    pub(super) fn demand<Q: Privilege>(&self) -> Result<(), Problem> {
        check::<Q>(&self.caller)
    }

    /// The namespace of that name, or the token's default one.
    pub(super) fn namespace(&self, name: Option<&str>) -> Result<&Namespace, Problem> {
        self.caller
            .namespace(name)
            .map_err(|error: NamespaceDenied| Problem::new(Kind::NamespaceDenied, error.to_string()))
    }

    /// The lease that is asked for, if the plan has it, or the account's own.
    pub(super) fn lease(&self, asked: Option<Lease>) -> Result<Lease, Problem> {
        self.caller
            .lease(asked)
            .map_err(|error: LeaseOutOfRange| Problem::new(Kind::LeaseOutOfRange, error.to_string()))
    }

    pub(super) fn account(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn payment(&self) -> Payment {
        self.permit.payment.clone()
    }

    /// Takes note of what a script said about the token's rate.
    pub(super) fn settle<T>(&self, answer: Answer<T>) -> T {
        if let Some(standing) = answer.standing {
            self.note_standing(standing, None);
        }
        answer.outcome
    }

    /// Gives the request so much more time than others have, to wait in.
    pub(super) fn may_wait(&self, wait: std::time::Duration) {
        self.frame.may_wait(wait);
    }

    /// The problem to answer when a script refused the request for its rate.
    pub(super) fn rate_limited(&self, retry_after: std::time::Duration) -> Problem {
        let standing = self.permit.standing();
        self.note_standing(standing, Some(retry_after));
        rate_limited(&self.app, &self.caller).retry_after(retry_after)
    }

    fn note_standing(&self, standing: RateStanding, retry_after: Option<std::time::Duration>) {
        self.permit.settle(standing, retry_after);
        self.frame.note_standing(self.permit.standing());
    }
}

fn rate_limited(app: &App, caller: &Caller) -> Problem {
    app.locks.note_limited(caller.account);
    counter!("lockable_rate_limited_total").increment(1);
    let rate = caller.plan.rate;
    let detail = format!("this token may make {} requests a second, and {} at once", rate.per_second, rate.burst);
    Problem::new(Kind::RateLimited, detail)
}

static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
static PURPOSE: HeaderName = HeaderName::from_static("purpose");

/// Browsers mark what they fetch ahead of time (the fields of the Fetch
/// standard and of its forerunners); nobody has asked for that yet.
fn refuse_prefetch(headers: &HeaderMap) -> Result<(), Problem> {
    let is_prefetch = |name: &HeaderName| {
        headers
            .get_all(name)
            .iter()
            .any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("prefetch")))
    };
    if is_prefetch(&SEC_PURPOSE) || is_prefetch(&PURPOSE) {
        return Err(Problem::new(Kind::PrefetchRefused, "this request is marked as a prefetch"));
    }
    Ok(())
}

/// Finds out whose token a request carries.
async fn authenticate(parts: &Parts, app: &App) -> Result<Arc<Caller>, Problem> {
    match credentials(&parts.headers) {
        Credentials::Token(token) => match app.directory.recall(&token).await {
            Some(caller) => Ok(caller),
            None => Stranger::of(parts, app).look_up(&token).await,
        },
        Credentials::Missing => Err(unauthenticated()),
        Credentials::Malformed => Err(Stranger::of(parts, app).fail()),
    }
}
