use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    AccountsError, Database,
    change::{Actor, Change, now_ms},
};
use crate::lock::AccountId;

/// What an operator asks of whichever server is there: locks are not in the database.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum OperatorRequest {
    /// Who holds a lock.
    Show { lock: NamedLock },
    /// Break the grant with this fencing token, and no other.
    Break { lock: NamedLock, fencing_token: u64 },
    /// Release the locks of an account that was deleted.
    ReleaseAll { account: AccountId },
}

/// A lock as operators name it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamedLock {
    /// The id of the namespace, and its name.
    pub namespace_id: String,
    pub namespace: String,
    pub name: String,
}

/// What a server answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorAnswer {
    Shown { holder: Option<HolderInfo>, waiting: u64 },
    Broken { broken: bool },
    Released,
    Failed { reason: String },
}

/// Who holds a lock, for operators.
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

/// A request that this server has taken.
#[derive(Clone, Debug)]
pub struct TakenRequest {
    pub id: String,
    pub request: OperatorRequest,
}

impl Database {
    /// How long to wait for a server's answer.
    pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
    const ANSWER_POLL: Duration = Duration::from_millis(50);
    /// How old a request about one lock may be when a server takes it: nobody waits for the
    /// answer to an older one. Clocks may differ by some of that.
    const VALID_MS: i64 = 60_000;
    /// How long requests are kept that nobody has removed.
    const KEPT_MS: i64 = 24 * 3_600_000;
    /// How many a server takes at once.
    const TAKEN_MAX: i64 = 20;

    /// Asks a server, and waits for its answer.
    ///
    /// # Errors
    /// When none has answered in time. Then none does so later.
    pub async fn ask_server(&self, request: &OperatorRequest) -> Result<OperatorAnswer, AccountsError> {
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

    /// Takes requests that no other server has taken.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn take_operator_requests(&self) -> Result<Vec<TakenRequest>, AccountsError> {
        let rows = sqlx::query(
            "SELECT id, created_at, request FROM operator_requests WHERE taken_at IS NULL ORDER BY created_at LIMIT $1",
        )
        .bind(Self::TAKEN_MAX)
        .fetch_all(self.pool())
        .await?;
        let mut taken = Vec::new();
        for row in rows {
            let (id, created_at): (String, i64) = (row.try_get("id")?, row.try_get("created_at")?);
            let updated = sqlx::query("UPDATE operator_requests SET taken_at = $1 WHERE id = $2 AND taken_at IS NULL")
                .bind(now_ms())
                .bind(&id)
                .execute(self.pool())
                .await?;
            // One of a later version is nothing for this server.
            let Ok(request) = serde_json::from_str(row.try_get("request")?) else { continue };
            let is_valid =
                matches!(request, OperatorRequest::ReleaseAll { .. }) || now_ms() - created_at < Self::VALID_MS;
            if updated.rows_affected() == 1 && is_valid {
                taken.push(TakenRequest { id, request });
            }
        }
        Ok(taken)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn answer_operator(&self, id: &str, answer: &OperatorAnswer) -> Result<(), AccountsError> {
        let answer = serde_json::to_string(answer).map_err(|_| AccountsError::Corrupt("an answer"))?;
        sqlx::query("UPDATE operator_requests SET answer = $1 WHERE id = $2")
            .bind(answer)
            .bind(id)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

impl Change<'_> {
    /// Adds a request for whichever server sees it first. Returns its id.
    pub(super) async fn add_operator_request(&mut self, request: &OperatorRequest) -> Result<String, AccountsError> {
        let id = Uuid::now_v7().to_string();
        let request = serde_json::to_string(request).map_err(|_| AccountsError::Corrupt("a request"))?;
        sqlx::query("DELETE FROM operator_requests WHERE created_at < $1")
            .bind(now_ms() - Database::KEPT_MS)
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
