use std::time::Duration;

use serde_json::json;
use sqlx::Row;

use super::{
    AccountInfo, AccountsError, Database, Password, Secret,
    account::check_email,
    change::{Actor, Change, now_ms},
    password,
};

/// What a link is for that works once.
#[derive(Clone, Debug)]
pub enum Link {
    /// To make an account, for this address or any.
    Invitation { email: Option<String>, plan: String },
    /// To give an account another password.
    Reset(AccountInfo),
}

impl Database {
    /// The longest that a link may work.
    pub const LINK_VALID_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

    /// Makes an account that somebody can sign in to, unless the address has one.
    /// Nobody is told which: what is done takes as long, and the owner of the
    /// account finds it in the audit log.
    ///
    /// # Errors
    /// When the address is none, the password cannot be anybody's, or there is no
    /// such plan.
    pub async fn sign_up(&self, email: &str, plan: &str, password: Password) -> Result<(), AccountsError> {
        check_email(email)?;
        let hash = password::hash(password, email).await?;
        let mut change = self.change(Actor::Visitor).await?;
        change.sign_up(email, plan, &hash).await?;
        change.commit().await
    }

    /// Makes a link with which somebody can make an account.
    ///
    /// # Errors
    /// When the address is none or has an account, or there is no such plan.
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

    /// Makes a link with which an account can be given another password.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn reset_password(&self, by: Actor, account: &str, valid: Duration) -> Result<Secret, AccountsError> {
        let mut change = self.change(by).await?;
        let account = change.find_account(account).await?;
        let secret = change.add_link(Some(&account), None, &account.plan, valid).await?;
        change.record(Some(account.id), "account.reset-password", json!({})).await?;
        change.commit().await?;
        Ok(secret)
    }

    /// What a link is for, `None` if it has been used or is too old.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_link(&self, secret: &Secret) -> Result<Option<Link>, AccountsError> {
        let row = sqlx::query("SELECT account, email, plan FROM links WHERE hash = $1 AND expires_at > $2")
            .bind(secret.hash())
            .bind(now_ms())
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(match row.try_get::<Option<String>, _>("account")? {
            Some(account) => Link::Reset(self.show_account(&account).await?),
            None => Link::Invitation { email: row.try_get("email")?, plan: row.try_get("plan")? },
        }))
    }

    /// Uses a link up: gives the account its password, or makes it. Whether there
    /// is one for the address already is not told. Returns whether the link was
    /// good.
    ///
    /// # Errors
    /// When the address is none, or the password cannot be anybody's.
    pub async fn use_link(&self, secret: &Secret, email: &str, password: Password) -> Result<bool, AccountsError> {
        let Some(link) = self.find_link(secret).await? else { return Ok(false) };
        let email = match &link {
            Link::Reset(account) => &account.email,
            Link::Invitation { email: invited, .. } => invited.as_deref().unwrap_or(email),
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
            Link::Reset(account) => {
                change.set_password(account, &hash, None).await?;
                change.record(Some(account.id), "account.set-password", json!({ "by": "link" })).await?;
            }
            Link::Invitation { plan, .. } => {
                check_email(email)?;
                change.sign_up(email, plan, &hash).await?;
            }
        }
        change.commit().await?;
        Ok(true)
    }
}

impl Change<'_> {
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
