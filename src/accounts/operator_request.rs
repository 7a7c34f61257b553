use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    AccountsError, Database,
    change::{Actor, ChangeTransaction, now_ms},
};
use crate::lock::AccountId;

/// A request of an operator to any server of the database: locks are not in the database.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum OperatorRequest {
    /// Show the holder of a lock.
    Show { lock: NamedLock },
    /// Break the grant with this fencing token only.
    Break { lock: NamedLock, fencing_token: u64 },
    /// Release all locks of a deleted account.
    ReleaseAll { account: AccountId },
}

/// A lock, as operators name it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamedLock {
    /// Id and name of the namespace.
    pub namespace_id: String,
    pub namespace: String,
    pub name: String,
}

/// A server's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorAnswer {
    Shown { holder: Option<HolderInfo>, waiting: u64 },
    Broken { broken: bool },
    Released,
    Failed { reason: String },
}

/// A lock's holder, for operators.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HolderInfo {
    pub account: AccountId,
    pub owner: Option<String>,
    pub note: String,
    pub token_label: String,
    pub fencing_token: u64,
    /// Milliseconds since 1970.
    pub acquired_at: i64,
    pub expires_at: i64,
}

/// A request that this server has claimed.
#[derive(Clone, Debug)]
pub struct ClaimedRequest {
    pub id: String,
    pub request: OperatorRequest,
}

impl Database {
    /// Time limit for a server's answer.
    pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
    const ANSWER_POLL: Duration = Duration::from_millis(50);
    /// Maximum age of a request about one lock that a server claims. Longer than the operator waits,
    /// because the clocks of the operator's machine and of the server may differ.
    const VALID_MS: i64 = 60_000;
    /// Lifetime of requests that were not removed.
    const REQUEST_TTL_MS: i64 = 24 * 3_600_000;
    /// Maximum number of requests per claim.
    const CLAIMED_MAX: i64 = 20;

    /// Sends a request to the servers and waits for an answer.
    ///
    /// # Errors
    /// If no server answers in time. No server executes the request later.
    pub async fn call_server(&self, request: &OperatorRequest) -> Result<OperatorAnswer, AccountsError> {
        let mut change = self.change(Actor::Operator).await?;
        let id = change.add_operator_request(request).await?;
        change.commit().await?;
        let end = Instant::now() + Self::ANSWER_TIMEOUT;
        loop {
            let answer: Option<String> = sqlx::query_scalar("SELECT answer FROM operator_requests WHERE id = $1")
                .bind(&id)
                .fetch_optional(self.pool())
                .await?
                .flatten();
            if answer.is_some() || end <= Instant::now() {
                sqlx::query("DELETE FROM operator_requests WHERE id = $1").bind(&id).execute(self.pool()).await?;
            }
            match answer {
                Some(answer) => {
                    return serde_json::from_str(&answer).map_err(|_| AccountsError::Corrupt("a server's answer"));
                }
                None if end <= Instant::now() => return Err(AccountsError::NoServer(Self::ANSWER_TIMEOUT)),
                None => sleep(Self::ANSWER_POLL).await,
            }
        }
    }

    /// Claims requests that no other server has claimed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_operator_requests(&self) -> Result<Vec<ClaimedRequest>, AccountsError> {
        let rows = sqlx::query(
            "SELECT id, created_at, request FROM operator_requests WHERE claimed_at IS NULL ORDER BY created_at LIMIT $1",
        )
        .bind(Self::CLAIMED_MAX)
        .fetch_all(self.pool())
        .await?;
        let mut taken = Vec::new();
        for row in rows {
            let (id, created_at): (String, i64) = (row.try_get("id")?, row.try_get("created_at")?);
            let updated =
                sqlx::query("UPDATE operator_requests SET claimed_at = $1 WHERE id = $2 AND claimed_at IS NULL")
                    .bind(now_ms())
                    .bind(&id)
                    .execute(self.pool())
                    .await?;
            // A request of a later version is skipped.
            let Ok(request) = serde_json::from_str(row.try_get("request")?) else { continue };
            let is_valid =
                matches!(request, OperatorRequest::ReleaseAll { .. }) || now_ms() - created_at < Self::VALID_MS;
            if updated.rows_affected() == 1 && is_valid {
                taken.push(ClaimedRequest { id, request });
            }
        }
        Ok(taken)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn answer_operator_request(&self, id: &str, answer: &OperatorAnswer) -> Result<(), AccountsError> {
        let answer = serde_json::to_string(answer).map_err(|_| AccountsError::Corrupt("an answer"))?;
        sqlx::query("UPDATE operator_requests SET answer = $1 WHERE id = $2")
            .bind(answer)
            .bind(id)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

impl ChangeTransaction<'_> {
    /// Adds a request for the first server that claims it. Returns its id.
    pub(super) async fn add_operator_request(&mut self, request: &OperatorRequest) -> Result<String, AccountsError> {
        let id = Uuid::now_v7().to_string();
        let request = serde_json::to_string(request).map_err(|_| AccountsError::Corrupt("a request"))?;
        sqlx::query("DELETE FROM operator_requests WHERE created_at < $1")
            .bind(now_ms() - Database::REQUEST_TTL_MS)
            .execute(self.connection())
            .await?;
        sqlx::query("INSERT INTO operator_requests (id, created_at, request) VALUES ($1, $2, $3)")
            .bind(&id)
            .bind(now_ms())
            .bind(request)
            .execute(self.connection())
            .await?;
        Ok(id)
    }
}
