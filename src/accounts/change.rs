use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use sqlx::{Any, AnyConnection, Transaction};
use uuid::Uuid;

use super::{AccountsError, Database, Plan};
use crate::lock::AccountId;

/// A change of the database: one transaction with a number of its own and an audit row.
///
/// The transaction increments the counter first and holds its row until the end. Numbers are
/// therefore committed in order, and a server that queries the changes after the last number it has
/// seen misses none.
pub(super) struct ChangeTransaction<'a> {
    transaction: Transaction<'a, Any>,
    seq: i64,
    actor: Actor,
}

/// The originator of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person with access to the database's URL.
    Operator,
    /// A server.
    Server,
    /// A token, by its id.
    Token(Uuid),
    /// A session of the account page, by its id.
    Session(Uuid),
    /// A visitor who has not signed in.
    Visitor,
}

impl Database {
    /// Begins a change by `actor`.
    pub(super) async fn change(&self, actor: Actor) -> Result<ChangeTransaction<'_>, AccountsError> {
        self.check_version().await?;
        let mut transaction = self.pool().begin().await?;
        let seq = sqlx::query_scalar("UPDATE revision SET seq = seq + 1 WHERE one = 1 RETURNING seq")
            .fetch_one(&mut *transaction)
            .await?;
        if let Actor::Session(id) = actor {
            // Checked inside the transaction, which serializes changes: a change that is in
            // progress when its session ends fails.
            let session = sqlx::query("SELECT id FROM sessions WHERE id = $1").bind(id.to_string());
            session.fetch_optional(&mut *transaction).await?.ok_or(AccountsError::SessionEnded)?;
        }
        Ok(ChangeTransaction { transaction, seq, actor })
    }
}

impl ChangeTransaction<'_> {
    pub(super) fn seq(&self) -> i64 {
        self.seq
    }

    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }

    /// Marks an account as changed, so that servers invalidate their cached callers.
    pub(super) async fn touch_account(&mut self, account: AccountId) -> Result<(), AccountsError> {
        sqlx::query("UPDATE accounts SET revision = $1 WHERE id = $2")
            .bind(self.seq)
            .bind(account.to_string())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Writes an audit row.
    pub(super) async fn record(
        &mut self,
        account: Option<AccountId>,
        action: &str,
        detail: serde_json::Value,
    ) -> Result<(), AccountsError> {
        let actor = self.actor.to_string();
        sqlx::query("INSERT INTO audit (id, at, account, actor, action, detail) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(Uuid::now_v7().to_string())
            .bind(now_ms())
            .bind(account.map(|account| account.to_string()))
            .bind(actor)
            .bind(action)
            .bind(detail.to_string())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    pub(super) async fn find_plan(&mut self, name: &str) -> Result<Plan, AccountsError> {
        let row = sqlx::query("SELECT p.*, p.name AS plan_name FROM plans p WHERE p.name = $1")
            .bind(name)
            .fetch_optional(self.connection())
            .await?;
        let row = row.ok_or_else(|| AccountsError::NotFound { what: "plan", name: name.into() })?;
        Plan::read(&row)
    }

    pub(super) async fn commit(self) -> Result<(), AccountsError> {
        Ok(self.transaction.commit().await?)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Server => f.write_str("server"),
            Self::Token(id) => write!(f, "token:{id}"),
            Self::Session(id) => write!(f, "session:{id}"),
            Self::Visitor => f.write_str("visitor"),
        }
    }
}

/// Milliseconds since 1970, by the wall clock. These times are for display; only the expiry of
/// sessions, links and rotated tokens depends on them.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
