use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::http::HeaderMap;
use metrics::counter;

use super::{
    client_address::client_address,
    connection::Connection,
    problem::{Kind, Problem},
};
use crate::{
    accounts::{Caller, FindError, Reach, Token},
    app::App,
    limits::{Network, NoTurn, Turn, Turns},
};

/// A client whose token memory does not know: new here, or somebody who guesses.
/// What such clients cost is limited for each address.
pub(super) struct Stranger<'app> {
    app: &'app App,
    address: Option<IpAddr>,
}

impl<'app> Stranger<'app> {
    pub(super) fn of(headers: &HeaderMap, connection: Option<&Connection>, app: &'app App) -> Self {
        let address =
            connection.map(|connection| client_address(connection.peer().ip(), headers, &app.trusted_proxies));
        Self { app, address }
    }

    /// Finds out whose the token is. An address that has failed often may still
    /// use tokens that a cache knows, but asks no database.
    pub(super) async fn look_up(&self, token: &Token) -> Result<Arc<Caller>, Problem> {
        // One asks for all that come with the same token, as thousands may in one
        // moment when a server has just started.
        let _first = self.app.lookups.take(token.hash()).await.map_err(|_| unanswered())?;
        if let Some(caller) = self.app.directory.recall(token).await {
            return Ok(caller);
        }
        let turn = self.turn(&self.app.addresses.caches).await?;
        match self.app.directory.find(token, Reach::Caches, turn).await {
            Err(FindError::NotCached) => self.look_up_in_database(token).await,
            found => found.map_err(|error| self.problem(&error)),
        }
    }

    async fn look_up_in_database(&self, token: &Token) -> Result<Arc<Caller>, Problem> {
        self.refuse_after_failures()?;
        // Kept here, too, until a failure is counted: whose turn is next is to know.
        let turn = Arc::new(self.turn(&self.app.addresses.database).await?);
        self.refuse_after_failures()?;
        // The database is asked also for who hangs up meanwhile.
        let mut unanswered = Unanswered(Some(self));
        let found = self.app.directory.find(token, Reach::Everything, turn.clone()).await;
        if !matches!(found, Err(FindError::Unanswered)) {
            unanswered.0 = None;
        }
        found.map_err(|error| self.problem(&error))
    }

    fn problem(&self, error: &FindError) -> Problem {
        match error {
            FindError::Unknown | FindError::NotCached => self.fail(),
            FindError::Unanswered | FindError::Unavailable(_) => {
                tracing::debug!(%error, "a token could not be looked up");
                unanswered()
            }
        }
    }

    /// Waits until the address may have one more lookup in flight.
    async fn turn(&self, turns: &Arc<Turns<Network>>) -> Result<Option<Turn<Network>>, Problem> {
        let Some(address) = self.address else { return Ok(None) };
        turns.take(address).await.map(Some).map_err(no_turn)
    }

    /// Counts a token that is nobody's.
    pub(super) fn fail(&self) -> Problem {
        if let Err(refused) = self.refuse_after_failures() {
            return refused;
        }
        self.record_failure();
        unauthenticated()
    }

    fn refuse_after_failures(&self) -> Result<(), Problem> {
        let Some(wait) = self.address.and_then(|address| self.app.addresses.refusal(address)) else { return Ok(()) };
        let detail = "too many tokens from this address were nobody's, or not looked up in time";
        Err(Problem::new(Kind::TooManyFailures, detail).retry_after(wait))
    }

    fn record_failure(&self) {
        if let Some(address) = self.address {
            self.app.addresses.record_failure(address);
        }
    }
}

pub(super) fn unanswered() -> Problem {
    Problem::unavailable("accounts could not be asked in time")
}

fn no_turn(why: NoTurn) -> Problem {
    let detail = "too many tokens from this address wait to be looked up";
    match why {
        NoTurn::LineFull => Problem::new(Kind::TooManyLookups, detail).retry_after(Duration::from_secs(1)),
        // Not for what the client has done: those before it had no answer either.
        NoTurn::TooLate => Problem::unavailable(detail),
    }
}

/// A lookup that the database did not answer, or not before the client hung up.
/// That counts as a failure, or guessing would cost nothing as long as the
/// database is slow, and would keep it so.
struct Unanswered<'a, 'app>(Option<&'a Stranger<'app>>);

impl Drop for Unanswered<'_, '_> {
    fn drop(&mut self) {
        if let Some(stranger) = self.0 {
            stranger.record_failure();
        }
    }
}

pub(super) fn unauthenticated() -> Problem {
    counter!("lockable_unauthenticated_total").increment(1);
    Problem::new(Kind::Unauthenticated, "send a valid token as the user name of HTTP basic authentication")
}
