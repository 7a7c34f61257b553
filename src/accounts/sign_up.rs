use std::time::Duration;

use serde_json::json;
use sqlx::Row;

use super::{
    AccountInfo, AccountsError, Database, Password, Secret,
    account::check_email,
    change::{Actor, ChangeTransaction, now_ms},
    password,
};

/// The purpose of a single-use link.
#[derive(Clone, Debug)]
pub enum SignUpLink {
    /// Create an account, for this e-mail address or any.
    Invitation { email: Option<String>, plan: String },
    /// Set a new password.
    Reset(AccountInfo),
}

impl Database {
    /// Maximum validity of a link.
    pub const LINK_VALID_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

    /// Creates an account with a password, unless the e-mail address already has an account. The
    /// result and the duration are the same in both cases, so that they do not reveal accounts. The
    /// audit log of an existing account records the attempt.
    ///
    /// # Errors
    /// If the e-mail address is invalid, the password is rejected, or the plan does not exist.
    pub async fn sign_up(&self, email: &str, plan: &str, password: Password) -> Result<(), AccountsError> {
        check_email(email)?;
        let hash = password::hash(password, email).await?;
        let mut change = self.change(Actor::Visitor).await?;
        change.sign_up(email, plan, &hash).await?;
        change.commit().await
    }

    /// Creates a sign-up link.
    ///
    /// # Errors
    /// If the e-mail address is invalid or in use, or the plan does not exist.
    pub async fn invite(&self, email: Option<&str>, plan: &str, valid: Duration) -> Result<Secret, AccountsError> {
        let mut change = self.change(Actor::Operator).await?;
        change.find_plan(plan).await?;
        if let Some(email) = email {
            check_email(email)?;
            if change.find_account(email).await.is_ok() {
                return Err(AccountsError::Exists { what: "an account for", name: email.into() });
            }
        }
        let secret = change.add_link(None, email, plan, valid).await?;
        change.record(None, "account.invite", json!({ "plan": plan })).await?;
        change.commit().await?;
        Ok(secret)
    }

    /// Creates a link that sets a new password.
    ///
    /// # Errors
    /// If the account does not exist.
    pub async fn reset_password(&self, by: Actor, account: &str, valid: Duration) -> Result<Secret, AccountsError> {
        let mut change = self.change(by).await?;
        let account = change.find_account(account).await?;
        let secret = change.add_link(Some(&account), None, &account.plan, valid).await?;
        change.record(Some(account.id), "account.reset-password", json!({})).await?;
        change.commit().await?;
        Ok(secret)
    }

    /// Finds an unused link; `None` if it was used or has expired.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_link(&self, secret: &Secret) -> Result<Option<SignUpLink>, AccountsError> {
        let row = sqlx::query("SELECT account, email, plan FROM links WHERE hash = $1 AND expires_at > $2")
            .bind(secret.hash())
            .bind(now_ms())
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(match row.try_get::<Option<String>, _>("account")? {
            Some(account) => SignUpLink::Reset(self.show_account(&account).await?),
            None => SignUpLink::Invitation { email: row.try_get("email")?, plan: row.try_get("plan")? },
        }))
    }

    /// Uses a link: sets the account's password or creates the account. Returns whether the link
    /// was valid. The result does not reveal whether the e-mail address already has an account.
    ///
    /// # Errors
    /// If the e-mail address is invalid or the password is rejected.
    pub async fn use_link(&self, secret: &Secret, email: &str, password: Password) -> Result<bool, AccountsError> {
        let Some(link) = self.find_link(secret).await? else { return Ok(false) };
        let email = match &link {
            SignUpLink::Reset(account) => &account.email,
            SignUpLink::Invitation { email: invited, .. } => invited.as_deref().unwrap_or(email),
        };
        let hash = password::hash(password, email).await?;
        let mut change = self.change(Actor::Visitor).await?;
        let used = sqlx::query("DELETE FROM links WHERE hash = $1 AND expires_at > $2")
            .bind(secret.hash())
            .bind(now_ms())
            .execute(change.connection())
            .await?;
        if used.rows_affected() == 0 {
            return Ok(false);
        }
        match &link {
            SignUpLink::Reset(account) => {
                change.set_password(account, &hash, None).await?;
                change.record(Some(account.id), "account.set-password", json!({ "by": "link" })).await?;
            }
            SignUpLink::Invitation { plan, .. } => {
                check_email(email)?;
                change.sign_up(email, plan, &hash).await?;
            }
        }
        change.commit().await?;
        Ok(true)
    }
}

impl ChangeTransaction<'_> {
    async fn sign_up(&mut self, email: &str, plan: &str, hash: &str) -> Result<(), AccountsError> {
        match self.find_account(email).await {
            Ok(account) => self.record(Some(account.id), "account.sign-up-again", json!({})).await,
            Err(AccountsError::NotFound { .. }) => {
                let account = self.add_account(email, plan).await?;
                self.set_password(&account, hash, None).await
            }
            Err(error) => Err(error),
        }
    }

    async fn add_link(
        &mut self,
        account: Option<&AccountInfo>,
        email: Option<&str>,
        plan: &str,
        valid: Duration,
    ) -> Result<Secret, AccountsError> {
        let secret = Secret::generate();
        sqlx::query("DELETE FROM links WHERE expires_at <= $1").bind(now_ms()).execute(self.connection()).await?;
        sqlx::query("INSERT INTO links (hash, account, email, plan, expires_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(secret.hash())
            .bind(account.map(|account| account.id.to_string()))
            .bind(email)
            .bind(plan)
            .bind(now_ms() + valid.as_millis() as i64)
            .execute(self.connection())
            .await?;
        Ok(secret)
    }
}
