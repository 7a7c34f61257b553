use serde_json::json;
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use super::{
    AccountInfo, AccountsError, Database, Password, Plan, Secret,
    change::{Actor, ChangeTransaction, now_ms},
    password,
};

/// A session of the account page.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: Uuid,
    pub account: AccountInfo,
    pub plan: Plan,
}

/// The client of a session, so that people can recognize it.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The client's address.
    pub address: String,
    /// The browser's User-Agent.
    pub agent: String,
}

/// A session, for the list of sessions.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub id: Uuid,
    pub origin: Origin,
    /// Times are milliseconds since 1970.
    pub created_at: i64,
    pub seen_at: i64,
}

impl Session {
    /// Maximum age of a session, and maximum time without a request, in milliseconds.
    pub const AGE_MS_MAX: i64 = 30 * 24 * 3_600_000;
    pub const IDLE_MS_MAX: i64 = 7 * 24 * 3_600_000;
    /// Resolution of the last use of a session.
    const SEEN_RESOLUTION_MS: i64 = 60_000;

    /// Returns the actor that the audit log records for changes in this session.
    pub fn actor(&self) -> Actor {
        Actor::Session(self.id)
    }
}

impl Database {
    /// Maximum number of sessions per account; a further one ends the oldest.
    pub const SESSIONS_MAX: u32 = 100;
    /// Maximum length of a stored User-Agent, in characters.
    const AGENT_CHARS_MAX: usize = 200;

    /// Signs in with an e-mail address and a password; `None` if they are wrong, after the same
    /// time whether or not the account exists. The browser's previous session ends.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_in(
        &self,
        email: &str,
        password: Password,
        origin: Origin,
        former: Option<&Secret>,
    ) -> Result<Option<Secret>, AccountsError> {
        let found = self.find_password(email).await?;
        let (account, hash) = found.map_or((None, None), |(account, hash)| (Some(account), hash));
        let is_match = password::verify(password, hash.clone()).await?;
        let Some(account) = account else { return Ok(None) };
        if is_match {
            let mut change = self.change(Actor::Visitor).await?;
            // The password may have been changed during the slow verification.
            if change.has_password(&account, hash.as_deref()).await? {
                if let Some(former) = former {
                    change.replace_session(former).await?;
                }
                let secret = change.begin_session(&account, &origin).await?;
                change.commit().await?;
                return Ok(Some(secret));
            }
        }
        // In the background, so that the answer's time does not reveal whether the account exists.
        let database = self.clone();
        tokio::spawn(async move { database.record_failed_sign_in(&account, &origin).await });
        Ok(None)
    }

    /// Verifies the password of an account.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_password(&self, account: &AccountInfo, password: Password) -> Result<bool, AccountsError> {
        let found = self.find_password(&account.email).await?;
        password::verify(password, found.and_then(|(_, hash)| hash)).await
    }

    /// Finds the session of a secret; `None` if it has ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_session(&self, secret: &Secret) -> Result<Option<Session>, AccountsError> {
        let now = now_ms();
        let row = sqlx::query(
            "SELECT s.id AS session, s.seen_at, a.id, a.email, a.plan, a.lease_ms, a.suspended_at, a.created_at, \
             p.name AS plan_name, p.rate_per_second, p.burst, p.lease_default_ms, p.lease_min_ms, p.lease_max_ms, \
             p.locks_max, p.waiters_max, p.tokens_max, p.private_namespaces \
             FROM sessions s JOIN accounts a ON a.id = s.account JOIN plans p ON p.name = a.plan \
             WHERE s.hash = $1 AND s.created_at > $2 AND s.seen_at > $3",
        )
        .bind(secret.hash())
        .bind(now - Session::AGE_MS_MAX)
        .bind(now - Session::IDLE_MS_MAX)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let session =
            Session { id: read_id(&row, "session")?, account: AccountInfo::read(&row)?, plan: Plan::read(&row)? };
        if row.try_get::<i64, _>("seen_at")? < now - Session::SEEN_RESOLUTION_MS {
            sqlx::query("UPDATE sessions SET seen_at = $1 WHERE id = $2")
                .bind(now)
                .bind(session.id.to_string())
                .execute(self.pool())
                .await?;
        }
        Ok(Some(session))
    }

    /// Lists the active sessions of an account, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_sessions(&self, account: &AccountInfo) -> Result<Vec<SessionInfo>, AccountsError> {
        let now = now_ms();
        let rows = sqlx::query(
            "SELECT * FROM sessions WHERE account = $1 AND created_at > $2 AND seen_at > $3 ORDER BY created_at DESC, id",
        )
        .bind(account.id.to_string())
        .bind(now - Session::AGE_MS_MAX)
        .bind(now - Session::IDLE_MS_MAX)
        .fetch_all(self.pool())
        .await?;
        let session = |row: &AnyRow| -> Result<_, AccountsError> {
            Ok(SessionInfo {
                id: read_id(row, "id")?,
                origin: Origin { address: row.try_get("address")?, agent: row.try_get("agent")? },
                created_at: row.try_get("created_at")?,
                seen_at: row.try_get("seen_at")?,
            })
        };
        rows.iter().map(session).collect()
    }

    /// Ends one session of an account, or all but the current one.
    ///
    /// # Errors
    /// If the session does not exist.
    pub async fn end_session(&self, current: &Session, id: Option<Uuid>) -> Result<(), AccountsError> {
        let mut change = self.change(current.actor()).await?;
        let account = &current.account;
        let ended = match id {
            Some(id) => sqlx::query("DELETE FROM sessions WHERE account = $1 AND id = $2")
                .bind(account.id.to_string())
                .bind(id.to_string()),
            None => sqlx::query("DELETE FROM sessions WHERE account = $1 AND id <> $2")
                .bind(account.id.to_string())
                .bind(current.id.to_string()),
        };
        let ended = ended.execute(change.connection()).await?.rows_affected();
        if let Some(id) = id.filter(|_| ended == 0) {
            return Err(AccountsError::NotFound { what: "session", name: id.to_string() });
        }
        if ended == 0 {
            return Ok(());
        }
        let detail = match id {
            Some(id) if id == current.id => json!({}),
            Some(id) => json!({ "session": id }),
            None => json!({ "others": ended }),
        };
        let action = if id == Some(current.id) { "account.sign-out" } else { "session.end" };
        change.record(Some(account.id), action, detail).await?;
        change.commit().await
    }

    /// Changes the password of an account. All sessions but the current one end.
    ///
    /// # Errors
    /// If the password is rejected.
    pub async fn set_password(&self, current: &Session, password: Password) -> Result<(), AccountsError> {
        let hash = password::hash(password, &current.account.email).await?;
        let mut change = self.change(current.actor()).await?;
        change.set_password(&current.account, &hash, Some(current.id)).await?;
        change.record(Some(current.account.id), "account.set-password", json!({})).await?;
        change.commit().await
    }

    async fn find_password(&self, email: &str) -> Result<Option<(AccountInfo, Option<String>)>, AccountsError> {
        let row = sqlx::query("SELECT * FROM accounts WHERE email_lower = $1 AND deleted_at IS NULL")
            .bind(email.to_lowercase())
            .fetch_optional(self.pool())
            .await?;
        row.map(|row| Ok((AccountInfo::read(&row)?, row.try_get("password")?))).transpose()
    }

    async fn record_failed_sign_in(&self, account: &AccountInfo, origin: &Origin) {
        let noted = async {
            let mut change = self.change(Actor::Visitor).await?;
            change.record(Some(account.id), "account.sign-in-failed", json!({ "address": origin.address })).await?;
            change.commit().await
        };
        if let Err(error) = noted.await {
            tracing::warn!(%error, "cannot write a failed sign-in to the audit log");
        }
    }
}

impl ChangeTransaction<'_> {
    pub(super) async fn begin_session(
        &mut self,
        account: &AccountInfo,
        origin: &Origin,
    ) -> Result<Secret, AccountsError> {
        let (id, secret, now) = (Uuid::now_v7(), Secret::generate(), now_ms());
        let agent: String = origin.agent.chars().take(Database::AGENT_CHARS_MAX).collect();
        sqlx::query("DELETE FROM sessions WHERE account = $1 AND (created_at <= $2 OR seen_at <= $3)")
            .bind(account.id.to_string())
            .bind(now - Session::AGE_MS_MAX)
            .bind(now - Session::IDLE_MS_MAX)
            .execute(self.connection())
            .await?;
        sqlx::query(
            "INSERT INTO sessions (id, hash, account, created_at, seen_at, address, agent) \
             VALUES ($1, $2, $3, $4, $4, $5, $6)",
        )
        .bind(id.to_string())
        .bind(secret.hash())
        .bind(account.id.to_string())
        .bind(now)
        .bind(&origin.address)
        .bind(&agent)
        .execute(self.connection())
        .await?;
        sqlx::query(
            "DELETE FROM sessions WHERE account = $1 AND id NOT IN \
             (SELECT id FROM sessions WHERE account = $1 ORDER BY created_at DESC, id DESC LIMIT $2)",
        )
        .bind(account.id.to_string())
        .bind(i64::from(Database::SESSIONS_MAX))
        .execute(self.connection())
        .await?;
        let detail = json!({ "session": id, "address": origin.address, "browser": agent });
        self.record(Some(account.id), "account.sign-in", detail).await?;
        Ok(secret)
    }

    /// Whether the account's password hash is still this one.
    async fn has_password(&mut self, account: &AccountInfo, hash: Option<&str>) -> Result<bool, AccountsError> {
        let row = sqlx::query("SELECT password FROM accounts WHERE id = $1 AND deleted_at IS NULL")
            .bind(account.id.to_string())
            .fetch_optional(self.connection())
            .await?;
        let password: Option<Option<String>> = row.map(|row| row.try_get("password")).transpose()?;
        Ok(password.is_some_and(|password| password.as_deref() == hash))
    }

    /// Ends the previous session of a browser that signs in again.
    async fn replace_session(&mut self, former: &Secret) -> Result<(), AccountsError> {
        let row = sqlx::query("DELETE FROM sessions WHERE hash = $1 RETURNING id, account")
            .bind(former.hash())
            .fetch_optional(self.connection())
            .await?;
        let Some(row) = row else { return Ok(()) };
        let account: String = row.try_get("account")?;
        let account = account.parse().map_err(|_| AccountsError::Corrupt("an account's id"))?;
        let detail = json!({ "session": read_id(&row, "id")?, "by": "sign-in" });
        self.record(Some(account), "session.end", detail).await
    }

    /// Signs out every other session and invalidates the account's links, so that a former password
    /// or link gives no access.
    pub(super) async fn set_password(
        &mut self,
        account: &AccountInfo,
        hash: &str,
        kept_session: Option<Uuid>,
    ) -> Result<(), AccountsError> {
        sqlx::query("UPDATE accounts SET password = $1 WHERE id = $2")
            .bind(hash)
            .bind(account.id.to_string())
            .execute(self.connection())
            .await?;
        sqlx::query("DELETE FROM sessions WHERE account = $1 AND id <> $2")
            .bind(account.id.to_string())
            .bind(kept_session.map(|id| id.to_string()).unwrap_or_default())
            .execute(self.connection())
            .await?;
        sqlx::query("DELETE FROM links WHERE account = $1 OR LOWER(email) = $2")
            .bind(account.id.to_string())
            .bind(account.email.to_lowercase())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

fn read_id(row: &AnyRow, column: &str) -> Result<Uuid, AccountsError> {
    Uuid::try_parse(row.try_get(column)?).map_err(|_| AccountsError::Corrupt("a session's id"))
}
