use serde::Serialize;
use sqlx::{AnyConnection, Row, any::AnyRow};
use uuid::Uuid;

use super::{
    AccountsError, Database, NewToken, Plan, Scopes, TokenRequest,
    change::{Actor, ChangeTransaction, now_ms},
};
use crate::lock::{AccountId, Label, Lease, Namespace, is_invisible};

/// An account.
#[derive(Clone, Debug, Serialize)]
pub struct AccountInfo {
    #[serde(serialize_with = "as_text")]
    pub id: AccountId,
    pub email: String,
    pub plan: String,
    /// The account's default lease in milliseconds; `None` selects the plan's.
    pub lease_ms: Option<i64>,
    /// Times are milliseconds since 1970.
    pub suspended_at: Option<i64>,
    pub created_at: i64,
}

/// A new account and its first token.
#[derive(Clone, Debug)]
pub struct NewAccount {
    pub account: AccountInfo,
    pub token: NewToken,
}

/// The first account of an embedded database, for the owner of the machine.
const FIRST_EMAIL: &str = "owner@localhost";
const FIRST_PLAN: &str = "business";

impl Database {
    /// Maximum length of an e-mail address in bytes (RFC 5321, with erratum 1690 of RFC 3696).
    pub const EMAIL_BYTES_MAX: usize = 254;

    /// Creates an account and its first token, which has all scopes.
    ///
    /// # Errors
    /// If the e-mail address is invalid or in use, or the plan does not exist.
    pub async fn create_account(&self, email: &str, plan: &str, label: Label) -> Result<NewAccount, AccountsError> {
        let mut change = self.change(Actor::Operator).await?;
        let account = change.add_account(email, plan).await?;
        let token = change.add_first_token(&account, label).await?;
        change.commit().await?;
        Ok(NewAccount { account, token })
    }

    /// Creates the first account; `None` if the database already has one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn first_account(&self) -> Result<Option<NewAccount>, AccountsError> {
        let mut change = self.change(Actor::Server).await?;
        let accounts: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM accounts").fetch_one(change.connection()).await?;
        if accounts > 0 {
            return Ok(None);
        }
        let label = Label::parse("first").map_err(|_| AccountsError::Corrupt("the first label"))?;
        let account = change.add_account(FIRST_EMAIL, FIRST_PLAN).await?;
        let token = change.add_first_token(&account, label).await?;
        change.commit().await?;
        Ok(Some(NewAccount { account, token }))
    }

    /// Lists all accounts, the oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list_accounts(&self) -> Result<Vec<AccountInfo>, AccountsError> {
        let rows = sqlx::query("SELECT * FROM accounts WHERE deleted_at IS NULL ORDER BY created_at, id")
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(AccountInfo::read).collect()
    }

    /// Reads one account by its e-mail address or id.
    ///
    /// # Errors
    /// If it does not exist.
    pub async fn show_account(&self, account: &str) -> Result<AccountInfo, AccountsError> {
        find_account(&mut *self.pool().acquire().await?, account).await
    }

    /// Changes the plan of an account.
    ///
    /// # Errors
    /// If the account or the plan does not exist.
    pub async fn set_plan(&self, account: &str, plan: &str) -> Result<(), AccountsError> {
        let mut change = self.change(Actor::Operator).await?;
        let account = change.find_account(account).await?;
        change.find_plan(plan).await?;
        sqlx::query("UPDATE accounts SET plan = $1 WHERE id = $2")
            .bind(plan)
            .bind(account.id.to_string())
            .execute(change.connection())
            .await?;
        let detail = serde_json::json!({ "before": account.plan, "after": plan });
        change.finish(&account, "account.set-plan", detail).await
    }

    /// Sets the default lease of an account; `None` restores the plan's.
    ///
    /// # Errors
    /// If the account does not exist, or the lease is outside the plan's range.
    pub async fn set_lease(&self, by: Actor, account: &str, lease: Option<Lease>) -> Result<(), AccountsError> {
        let mut change = self.change(by).await?;
        let account = change.find_account(account).await?;
        let Plan { name: plan, lease_min: min, lease_max: max, .. } = change.find_plan(&account.plan).await?;
        if let Some(lease) = lease.filter(|lease| *lease < min || max < *lease) {
            return Err(AccountsError::Lease { plan, min, max, lease });
        }
        let lease_ms = lease.map(|lease| lease.as_ms() as i64);
        sqlx::query("UPDATE accounts SET lease_ms = $1 WHERE id = $2")
            .bind(lease_ms)
            .bind(account.id.to_string())
            .execute(change.connection())
            .await?;
        let detail = serde_json::json!({ "before_ms": account.lease_ms, "after_ms": lease_ms });
        change.finish(&account, "account.set-lease", detail).await
    }

    /// Suspends or resumes an account. Repeating this changes nothing.
    ///
    /// # Errors
    /// If the account does not exist.
    pub async fn set_suspended(&self, account: &str, suspended: bool) -> Result<(), AccountsError> {
        let mut change = self.change(Actor::Operator).await?;
        let account = change.find_account(account).await?;
        if account.suspended_at.is_some() == suspended {
            return Ok(());
        }
        sqlx::query("UPDATE accounts SET suspended_at = $1 WHERE id = $2")
            .bind(suspended.then(now_ms))
            .bind(account.id.to_string())
            .execute(change.connection())
            .await?;
        let action = if suspended { "account.suspend" } else { "account.resume" };
        change.finish(&account, action, serde_json::json!({})).await
    }
}

impl ChangeTransaction<'_> {
    pub(super) async fn find_account(&mut self, account: &str) -> Result<AccountInfo, AccountsError> {
        find_account(self.connection(), account).await
    }

    /// Writes the audit row, marks the account as changed, and commits.
    pub(super) async fn finish(
        mut self,
        account: &AccountInfo,
        action: &str,
        detail: serde_json::Value,
    ) -> Result<(), AccountsError> {
        self.record(Some(account.id), action, detail).await?;
        self.touch_account(account.id).await?;
        self.commit().await
    }

    pub(super) async fn add_account(&mut self, email: &str, plan: &str) -> Result<AccountInfo, AccountsError> {
        check_email(email)?;
        self.find_plan(plan).await?;
        if self.find_account(email).await.is_ok() {
            return Err(AccountsError::Exists { what: "an account for", name: email.into() });
        }
        let account = AccountInfo {
            id: AccountId(Uuid::now_v7()),
            email: email.into(),
            plan: plan.into(),
            lease_ms: None,
            suspended_at: None,
            created_at: now_ms(),
        };
        sqlx::query(
            "INSERT INTO accounts (id, email, email_lower, plan, created_at, revision) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(account.id.to_string())
        .bind(email)
        .bind(email.to_lowercase())
        .bind(plan)
        .bind(account.created_at)
        .bind(self.seq())
        .execute(self.connection())
        .await?;
        self.record(Some(account.id), "account.create", serde_json::json!({ "plan": plan })).await?;
        Ok(account)
    }

    /// Adds a token with all scopes.
    async fn add_first_token(&mut self, account: &AccountInfo, label: Label) -> Result<NewToken, AccountsError> {
        let scopes = Scopes { lock: true, manage: true };
        self.add_token(account, &TokenRequest { label, scopes, namespace: Namespace::PUBLIC.into() }).await
    }
}

impl AccountInfo {
    pub(super) fn read(row: &AnyRow) -> Result<Self, AccountsError> {
        let id: String = row.try_get("id")?;
        Ok(Self {
            id: id.parse().map_err(|_| AccountsError::Corrupt("an account's id"))?,
            email: row.try_get("email")?,
            plan: row.try_get("plan")?,
            lease_ms: row.try_get("lease_ms")?,
            suspended_at: row.try_get("suspended_at")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

async fn find_account(connection: &mut AnyConnection, account: &str) -> Result<AccountInfo, AccountsError> {
    let row = sqlx::query("SELECT * FROM accounts WHERE (id = $1 OR email_lower = $2) AND deleted_at IS NULL")
        .bind(account)
        .bind(account.to_lowercase())
        .fetch_optional(connection)
        .await?;
    let row = row.ok_or_else(|| AccountsError::NotFound { what: "account", name: account.into() })?;
    AccountInfo::read(&row)
}

/// Checks the syntax. Only a message to the address can prove that the mailbox exists.
pub(super) fn check_email(email: &str) -> Result<(), AccountsError> {
    let is_valid = email.len() <= Database::EMAIL_BYTES_MAX
        && !email.chars().any(is_invisible)
        && email
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'));
    is_valid.then_some(()).ok_or_else(|| AccountsError::Email(email.chars().take(100).collect()))
}

fn as_text<S: serde::Serializer>(id: &AccountId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}
