use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::http::HeaderMap;
use metrics::counter;

use super::{
    client_address::client_address,
    connection::Connection,
    problem::{Problem, ProblemKind},
};
use crate::{
    accounts::{Caller, LookupDepth, Token, TokenLookupError},
    app::App,
    limits::{Network, PerKeyAcquireError, PerKeySemaphore, PerKeySemaphorePermit},
};

/// Looks up a token that is not in this server's memory: a new client's, or a guess. The lookups are
/// limited per client address.
pub(super) struct TokenLookup<'app> {
    app: &'app App,
    address: Option<IpAddr>,
}

impl<'app> TokenLookup<'app> {
    pub(super) fn new(headers: &HeaderMap, connection: Option<&Connection>, app: &'app App) -> Self {
        let address =
            connection.map(|connection| client_address(connection.peer().ip(), headers, &app.trusted_proxies));
        Self { app, address }
    }

    /// Returns the caller that the token authenticates. For a blocked client address, reads only the
    /// caches and never queries the database.
    pub(super) async fn find(&self, token: &Token) -> Result<Arc<Caller>, Problem> {
        // One lookup per token at a time: when the server starts, thousands of requests may have the same token.
        let _single_flight = self.app.token_lookups.acquire(token.hash()).await.map_err(|_| accounts_unavailable())?;
        if let Some(caller) = self.app.token_cache.get(token).await {
            return Ok(caller);
        }
        let permit = self.acquire_permit(&self.app.auth_failures.cache_lookups).await?;
        match self.app.token_cache.find(token, LookupDepth::Caches, permit).await {
            Err(TokenLookupError::NotCached) => self.find_in_database(token).await,
            found => found.map_err(|error| self.problem_for(&error)),
        }
    }

    async fn find_in_database(&self, token: &Token) -> Result<Arc<Caller>, Problem> {
        self.refuse_after_failures()?;
        // Hold the permit until the failure is counted, so that the next request sees it.
        let permit = Arc::new(self.acquire_permit(&self.app.auth_failures.database_lookups).await?);
        self.refuse_after_failures()?;
        // A disconnect counts as a failure, too, because the query continues without the client.
        let mut failure = FailureOnDrop(Some(self));
        let found = self.app.token_cache.find(token, LookupDepth::Database, permit.clone()).await;
        if !matches!(found, Err(TokenLookupError::TimedOut)) {
            failure.0 = None;
        }
        found.map_err(|error| self.problem_for(&error))
    }

    fn problem_for(&self, error: &TokenLookupError) -> Problem {
        match error {
            TokenLookupError::Unknown | TokenLookupError::NotCached => self.reject(),
            TokenLookupError::TimedOut | TokenLookupError::Unavailable(_) => {
                tracing::debug!(%error, "token lookup failed");
                accounts_unavailable()
            }
        }
    }

    /// Waits for a lookup permit of the address.
    async fn acquire_permit(
        &self,
        semaphore: &Arc<PerKeySemaphore<Network>>,
    ) -> Result<Option<PerKeySemaphorePermit<Network>>, Problem> {
        let Some(address) = self.address else { return Ok(None) };
        semaphore.acquire(address).await.map(Some).map_err(lookup_limit_problem)
    }

    /// Counts an invalid token.
    pub(super) fn reject(&self) -> Problem {
        if let Err(refused) = self.refuse_after_failures() {
            return refused;
        }
        self.record_failure();
        unauthenticated()
    }

    fn refuse_after_failures(&self) -> Result<(), Problem> {
        let Some(wait) = self.address.and_then(|address| self.app.auth_failures.blocked_for(address)) else {
            return Ok(());
        };
        let detail = "too many invalid tokens from this address; correct the token and retry later";
        Err(Problem::new(ProblemKind::TooManyFailures, detail).retry_after(wait))
    }

    fn record_failure(&self) {
        if let Some(address) = self.address {
            self.app.auth_failures.record_failure(address);
        }
    }
}

pub(super) fn accounts_unavailable() -> Problem {
    Problem::unavailable("the account database did not answer in time; retry")
}

fn lookup_limit_problem(error: PerKeyAcquireError) -> Problem {
    let detail = "too many new tokens from this address are queued for lookup; retry";
    match error {
        PerKeyAcquireError::QueueFull => {
            Problem::new(ProblemKind::TooManyLookups, detail).retry_after(Duration::from_secs(1))
        }
        // Earlier lookups of the address did not end in time, because the database is slow. That is not
        // the client's fault, so the status is not 429.
        PerKeyAcquireError::TimedOut => Problem::unavailable(detail),
    }
}

/// Counts a failure on drop, unless disarmed. It covers a lookup without a reply from the database, and
/// one whose client disconnected first. Otherwise an attacker could guess without a limit while the
/// database is slow, and would keep it slow.
struct FailureOnDrop<'a, 'app>(Option<&'a TokenLookup<'app>>);

impl Drop for FailureOnDrop<'_, '_> {
    fn drop(&mut self) {
        if let Some(lookup) = self.0 {
            lookup.record_failure();
        }
    }
}

pub(super) fn unauthenticated() -> Problem {
    counter!("lockable_unauthenticated_total").increment(1);
    Problem::new(
        ProblemKind::Unauthenticated,
        "the request has no valid token; send it as the user name of HTTP basic authentication, or as a bearer token",
    )
}
