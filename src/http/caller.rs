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
    connection_cache::ConnectionCache,
    credentials::{RequestCredentials, credentials},
    problem::{Problem, ProblemKind},
    request_context::RequestContext,
    strict::refuse_prefetch,
    token_lookup::{TokenLookup, accounts_unavailable, unauthenticated},
};
use crate::{
    accounts::{Caller, LeaseOutOfRange, LookupDepth, NamespaceDenied, Scopes, TokenLookupError},
    app::App,
    limits::{Admission, RateClass},
    lock::{Lease, Namespace, RateCharge, RateStatus},
    locks::{RenewedLease, WithRate},
};

/// A caller with the privilege `P`, which the handler declares by this type. The request is already
/// charged to the account's rate, or the script that serves it charges it.
pub(super) struct Authorized<P> {
    cache: Arc<ConnectionCache>,
    rate_class: RateClass,
    charge: RateCharge,
    context: Arc<RequestContext>,
    privilege: PhantomData<P>,
}

/// A privilege of a token.
pub(super) trait Privilege: Send {
    /// The missing scope, if any.
    fn missing(scopes: Scopes) -> Option<&'static str>;
}

/// May acquire, heartbeat and release: the scope `lock`.
pub(super) struct CanLock;
/// May manage the account: the scope `manage`.
pub(super) struct CanManage;
/// May read the account's data: every token.
pub(super) struct CanRead;

impl Privilege for CanLock {
    fn missing(scopes: Scopes) -> Option<&'static str> {
        (!scopes.lock).then_some("lock")
    }
}

impl Privilege for CanManage {
    fn missing(scopes: Scopes) -> Option<&'static str> {
        (!scopes.manage).then_some("manage")
    }
}

impl Privilege for CanRead {
    fn missing(_: Scopes) -> Option<&'static str> {
        None
    }
}

impl<P: Privilege> FromRequestParts<Arc<App>> for Authorized<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        refuse_prefetch(&parts.headers)?;
        let context = parts.extensions.get::<Arc<RequestContext>>().cloned().unwrap_or_default();
        Self::admit(&parts.headers, parts.extensions.get::<Connection>(), context, app, RateClass::General).await
    }
}

impl<P: Privilege> Authorized<P> {
    /// Authenticates a request, charges its rate and checks the privilege.
    pub(super) async fn admit(
        headers: &HeaderMap,
        connection: Option<&Connection>,
        context: Arc<RequestContext>,
        app: &App,
        rate_class: RateClass,
    ) -> Result<Self, Problem> {
        let now = context.start.into_std();
        let cache = match connection.and_then(|connection| cached(headers, connection, app, now)) {
            Some(cache) => cache,
            // Boxed: rarely used, and its future would enlarge the future of every request.
            None => Box::pin(authenticate(headers, connection, &context, app)).await?,
        };
        let charge = match app.account_rates.admit(cache.limiter(rate_class)).await? {
            Admission::Admitted { charge, rate_status } => {
                context.set_rate_status(rate_status);
                charge
            }
            Admission::Refused { retry_after, rate_status } => {
                context.set_rate_status(rate_status);
                return Err(rate_limited(app, &cache.caller).retry_after(retry_after));
            }
        };
        check_account(&cache.caller)?;
        check::<P>(&cache.caller)?;
        Ok(Self { cache, rate_class, charge, context, privilege: PhantomData })
    }

    /// Looks up the token again, and repeats the checks of a new request.
    ///
    /// # Errors
    /// The problem that a new request would get.
    pub(super) async fn check_again(&self, app: &App) -> Result<Arc<Caller>, Problem> {
        // Limited: all queued requests of an account may check at the same time.
        let permit = app.rechecks.clone().acquire_owned().await;
        let caller = match app.token_cache.find(&self.cache.token, LookupDepth::Database, permit).await {
            Ok(caller) => caller,
            Err(TokenLookupError::Unknown | TokenLookupError::NotCached) => return Err(unauthenticated()),
            Err(TokenLookupError::TimedOut | TokenLookupError::Unavailable(_)) => return Err(accounts_unavailable()),
        };
        check_account(&caller)?;
        check::<P>(&caller)?;
        Ok(caller)
    }
}

fn check_account(caller: &Caller) -> Result<(), Problem> {
    match caller.suspended {
        true => {
            Err(Problem::new(ProblemKind::AccountSuspended, "the account is suspended; ask the operator to resume it"))
        }
        false => Ok(()),
    }
}

fn check<P: Privilege>(caller: &Caller) -> Result<(), Problem> {
    match P::missing(caller.scopes) {
        Some(scope) => Err(Problem::new(
            ProblemKind::ScopeMissing,
            format!("the token lacks the scope \"{scope}\"; use a token that has it"),
        )),
        None => Ok(()),
    }
}

impl<P> Authorized<P> {
    /// Checks another privilege, which only some requests of a route need.
    pub(super) fn require<Q: Privilege>(&self) -> Result<(), Problem> {
        check::<Q>(&self.cache.caller)
    }

    /// Whether the account may have changed since the caller was checked.
    pub(super) fn is_outdated(&self, app: &App) -> bool {
        self.cache.is_outdated(&app.token_cache)
    }

    /// The namespace of this name, or the token's default namespace.
    pub(super) fn namespace(&self, name: Option<&str>) -> Result<&Namespace, Problem> {
        self.cache
            .caller
            .namespace(name)
            .map_err(|error: NamespaceDenied| Problem::new(ProblemKind::NamespaceDenied, error.to_string()))
    }

    /// The requested lease, if the plan allows it, or the account's default.
    pub(super) fn lease(&self, requested: Option<Lease>) -> Result<Lease, Problem> {
        self.cache.caller.lease(requested).map_err(lease_out_of_range)
    }

    /// The lease requested by a heartbeat, if the plan allows it, or the last requested one.
    pub(super) fn renewed_lease(&self, requested: Option<Lease>) -> Result<RenewedLease, Problem> {
        let lease = self.lease(requested)?;
        Ok(match requested {
            Some(_) => RenewedLease::For(lease),
            None => RenewedLease::LastAsked { default: lease, max: self.cache.caller.plan.lease_max },
        })
    }

    pub(super) fn account(&self) -> &Caller {
        &self.cache.caller
    }

    pub(super) fn charge(&self) -> RateCharge {
        self.charge.clone()
    }

    /// Charges one more request, for work that costs as much. `None` when the rate is used up.
    pub(super) async fn charge_again(&self, app: &App) -> Result<Option<RateCharge>, Problem> {
        let (charge, rate_status) = match app.account_rates.admit(self.cache.limiter(self.rate_class)).await? {
            Admission::Admitted { charge, rate_status } => (Some(charge), rate_status),
            Admission::Refused { rate_status, .. } => (None, rate_status),
        };
        self.context.set_rate_status(rate_status);
        Ok(charge)
    }

    /// Records the rate status that a script returned, and returns the outcome.
    pub(super) fn record_rate<T>(&self, answer: WithRate<T>) -> T {
        if let Some(rate_status) = answer.rate {
            self.set_rate_status(rate_status, None);
        }
        answer.outcome
    }

    /// Extends the deadline of the request by `wait`.
    pub(super) fn extend_deadline(&self, wait: Duration) {
        self.context.extend_deadline(wait);
    }

    /// The problem for a request that a script rejected because the account's rate is used up.
    pub(super) fn rate_limited(&self, app: &App, retry_after: Duration) -> Problem {
        let rate_status = self.cache.limiter(self.rate_class).rate_status(Instant::now());
        self.set_rate_status(rate_status, Some(retry_after));
        rate_limited(app, &self.cache.caller).retry_after(retry_after)
    }

    fn set_rate_status(&self, rate_status: RateStatus, retry_after: Option<Duration>) {
        let now = Instant::now();
        let limiter = self.cache.limiter(self.rate_class);
        limiter.record_shared(rate_status, retry_after, now);
        self.context.set_rate_status(limiter.rate_status(now));
    }
}

pub(super) fn lease_out_of_range(error: LeaseOutOfRange) -> Problem {
    Problem::new(ProblemKind::LeaseOutOfRange, error.to_string())
}

fn rate_limited(app: &App, caller: &Caller) -> Problem {
    app.locks.count_rate_limited(caller.account);
    counter!("lockable_rate_limited_total").increment(1);
    let rate = caller.plan.rate;
    let detail = format!(
        "the account used up its request rate of {} a second with a burst of {}, for all its tokens together; retry later",
        rate.per_second, rate.burst
    );
    Problem::new(ProblemKind::RateLimited, detail)
}

/// The connection's cache, if the request has the same token as the previous one.
fn cached(headers: &HeaderMap, connection: &Connection, app: &App, now: Instant) -> Option<Arc<ConnectionCache>> {
    static FROM_CONNECTION: LazyLock<Counter> =
        LazyLock::new(|| counter!("lockable_token_lookups_total", "source" => "connection"));
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let cache = connection.cache().filter(|cache| cache.matches(field, &app.token_cache, now))?;
    FROM_CONNECTION.increment(1);
    Some(cache)
}

/// Looks up the token of a request.
async fn authenticate(
    headers: &HeaderMap,
    connection: Option<&Connection>,
    context: &RequestContext,
    app: &App,
) -> Result<Arc<ConnectionCache>, Problem> {
    // Read before the lookup, so that no change is missed.
    let generation = app.token_cache.generation();
    let lookup = || TokenLookup::new(headers, connection, app);
    let (token, caller) = match credentials(headers) {
        RequestCredentials::Token(token) => match app.token_cache.get(&token).await {
            Some(caller) => (token, caller),
            None => {
                let caller = context.without_permit(lookup().find(&token)).await?;
                (token, caller)
            }
        },
        RequestCredentials::Missing => return Err(unauthenticated()),
        RequestCredentials::Malformed => return Err(lookup().reject()),
    };
    let limiters = [RateClass::Renewal, RateClass::General]
        .map(|rate_class| app.account_rates.limiter(caller.account, caller.plan.rate, rate_class));
    let cache = Arc::new(ConnectionCache::new(token, caller, limiters, generation, headers.get(header::AUTHORIZATION)));
    if let Some(connection) = connection {
        connection.set_cache(cache.clone());
    }
    Ok(cache)
}
