use std::{
    marker::PhantomData,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use metrics::{Counter, counter};

use super::{
    connection::Connection,
    connection_cache::Known,
    credentials::{Credentials, credentials},
    problem::{Kind, Problem},
    request_context::Frame,
    strict::refuse_prefetch,
    token_lookup::{Stranger, unanswered, unauthenticated},
};
use crate::{
    accounts::{Caller, FindError, LeaseOutOfRange, NamespaceDenied, Reach, Scopes},
    app::App,
    limits::{Admission, RateShare},
    lock::{Lease, Namespace, Payment, RateStanding},
    locks::{Answer, RenewedLease},
};

/// A caller whose token has the privilege `P`, and whose request has been
/// counted, or will be by the script that serves it. A handler says by this type
/// what it takes to be let in.
pub(super) struct Authorized<P> {
    known: Arc<Known>,
    share: RateShare,
    payment: Payment,
    frame: Arc<Frame>,
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
        let frame = parts.extensions.get::<Arc<Frame>>().cloned().unwrap_or_default();
        Self::admit(&parts.headers, parts.extensions.get::<Connection>(), frame, app, RateShare::Ask).await
    }
}

impl<P: Privilege> Authorized<P> {
    /// Lets a request in that is no prefetch, or says why not.
    pub(super) async fn admit(
        headers: &HeaderMap,
        connection: Option<&Connection>,
        frame: Arc<Frame>,
        app: &App,
        share: RateShare,
    ) -> Result<Self, Problem> {
        let now = frame.begun.into_std();
        let known = match connection.and_then(|connection| known(headers, connection, app, now)) {
            Some(known) => known,
            // Boxed: its room would be taken in every request, most of which are
            // known.
            None => Box::pin(authenticate(headers, connection, &frame, app)).await?,
        };
        let payment = match app.rates.admit(known.meter(share)).await? {
            Admission::Admitted { payment, standing } => {
                frame.note_standing(standing);
                payment
            }
            Admission::Refused { retry_after, standing } => {
                frame.note_standing(standing);
                return Err(rate_limited(app, &known.caller).retry_after(retry_after));
            }
        };
        check_account(&known.caller)?;
        check::<P>(&known.caller)?;
        Ok(Self { known, share, payment, frame, privilege: PhantomData })
    }

    /// Looks the token up again, and checks what a new request would be checked for.
    ///
    /// # Errors
    /// The problem that a new request would be answered with.
    pub(super) async fn check_again(&self, app: &App) -> Result<Arc<Caller>, Problem> {
        // A few at once: all of an account may do so in the same moment.
        let turn = app.rechecks.clone().acquire_owned().await;
        let caller = match app.directory.find(&self.known.token, Reach::Everything, turn).await {
            Ok(caller) => caller,
            Err(FindError::Unknown | FindError::NotCached) => return Err(unauthenticated()),
            Err(FindError::Unanswered | FindError::Unavailable(_)) => return Err(unanswered()),
        };
        check_account(&caller)?;
        check::<P>(&caller)?;
        Ok(caller)
    }
}

fn check_account(caller: &Caller) -> Result<(), Problem> {
    match caller.suspended {
        true => Err(Problem::new(Kind::AccountSuspended, "this account is suspended")),
        false => Ok(()),
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
        check::<Q>(&self.known.caller)
    }

    /// Whether something has changed since the caller was checked.
    pub(super) fn is_outdated(&self, app: &App) -> bool {
        self.known.is_outdated(&app.directory)
    }

    /// The namespace of that name, or the token's default one.
    pub(super) fn namespace(&self, name: Option<&str>) -> Result<&Namespace, Problem> {
        self.known
            .caller
            .namespace(name)
            .map_err(|error: NamespaceDenied| Problem::new(Kind::NamespaceDenied, error.to_string()))
    }

    /// The lease that is asked for, if the plan has it, or the account's own.
    pub(super) fn lease(&self, asked: Option<Lease>) -> Result<Lease, Problem> {
        self.known.caller.lease(asked).map_err(lease_out_of_range)
    }

    /// The lease that a heartbeat asks for, if the plan has it, or the one asked for last.
    pub(super) fn renewed_lease(&self, asked: Option<Lease>) -> Result<RenewedLease, Problem> {
        let lease = self.lease(asked)?;
        Ok(match asked {
            Some(_) => RenewedLease::For(lease),
            None => RenewedLease::LastAsked { default: lease, max: self.known.caller.plan.lease_max },
        })
    }

    pub(super) fn account(&self) -> &Caller {
        &self.known.caller
    }

    pub(super) fn payment(&self) -> Payment {
        self.payment.clone()
    }

    /// Counts one more request of the rate, for work that takes as much. `None` when the
    /// rate has no more.
    pub(super) async fn pay_again(&self, app: &App) -> Result<Option<Payment>, Problem> {
        let (payment, standing) = match app.rates.admit(self.known.meter(self.share)).await? {
            Admission::Admitted { payment, standing } => (Some(payment), standing),
            Admission::Refused { standing, .. } => (None, standing),
        };
        self.frame.note_standing(standing);
        Ok(payment)
    }

    /// Takes note of what a script said about the account's rate.
    pub(super) fn settle<T>(&self, answer: Answer<T>) -> T {
        if let Some(standing) = answer.standing {
            self.note_standing(standing, None);
        }
        answer.outcome
    }

    /// Gives the request so much more time than others have, to wait in.
    pub(super) fn may_wait(&self, wait: Duration) {
        self.frame.may_wait(wait);
    }

    /// The problem to answer when a script refused the request for its rate.
    pub(super) fn rate_limited(&self, app: &App, retry_after: Duration) -> Problem {
        let standing = self.known.meter(self.share).standing(Instant::now());
        self.note_standing(standing, Some(retry_after));
        rate_limited(app, &self.known.caller).retry_after(retry_after)
    }

    fn note_standing(&self, standing: RateStanding, retry_after: Option<Duration>) {
        let now = Instant::now();
        let meter = self.known.meter(self.share);
        meter.settle(standing, retry_after, now);
        self.frame.note_standing(meter.standing(now));
    }
}

pub(super) fn lease_out_of_range(error: LeaseOutOfRange) -> Problem {
    Problem::new(Kind::LeaseOutOfRange, error.to_string())
}

fn rate_limited(app: &App, caller: &Caller) -> Problem {
    app.locks.note_limited(caller.account);
    counter!("lockable_rate_limited_total").increment(1);
    let rate = caller.plan.rate;
    let detail = format!(
        "all tokens of this account together may make {} requests a second, and {} at once",
        rate.per_second, rate.burst
    );
    Problem::new(Kind::RateLimited, detail)
}

/// Whose token a request carries, if it is that of the last one on its connection.
fn known(headers: &HeaderMap, connection: &Connection, app: &App, now: Instant) -> Option<Arc<Known>> {
    static FROM_CONNECTION: LazyLock<Counter> =
        LazyLock::new(|| counter!("lockable_token_lookups_total", "source" => "connection"));
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let known = connection.known().filter(|known| known.is_still(field, &app.directory, now))?;
    FROM_CONNECTION.increment(1);
    Some(known)
}

/// Finds out whose token a request carries.
async fn authenticate(
    headers: &HeaderMap,
    connection: Option<&Connection>,
    frame: &Frame,
    app: &App,
) -> Result<Arc<Known>, Problem> {
    // From before it is asked, so that no change is missed.
    let generation = app.directory.generation();
    let stranger = || Stranger::of(headers, connection, app);
    let (token, caller) = match credentials(headers) {
        Credentials::Token(token) => match app.directory.recall(&token).await {
            Some(caller) => (token, caller),
            None => {
                let caller = frame.aside(stranger().look_up(&token)).await?;
                (token, caller)
            }
        },
        Credentials::Missing => return Err(unauthenticated()),
        Credentials::Malformed => return Err(stranger().fail()),
    };
    let meters =
        [RateShare::Keep, RateShare::Ask].map(|share| app.rates.meter(caller.account, caller.plan.rate, share));
    let known = Arc::new(Known::new(token, caller, meters, generation, headers.get(header::AUTHORIZATION)));
    if let Some(connection) = connection {
        connection.learn(known.clone());
    }
    Ok(known)
}
