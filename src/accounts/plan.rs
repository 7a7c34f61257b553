use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};

use super::{AccountsError, Database, change::Actor};
use crate::lock::{Lease, Rate};

/// The limits of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub name: String,
    pub rate: Rate,
    /// The default lease, unless the account has set its own.
    pub lease_default: Lease,
    pub lease_min: Lease,
    pub lease_max: Lease,
    /// Maximum number of held locks per account.
    pub locks_max: u64,
    /// Maximum number of queued requests per account.
    pub waiters_max: u64,
    /// Maximum number of active tokens per account.
    pub tokens_max: u64,
    pub private_namespaces: bool,
}

/// New limits of a plan; `None` leaves a limit unchanged.
#[derive(Clone, Debug, Default)]
pub struct PlanChange {
    pub per_second: Option<u32>,
    pub burst: Option<u32>,
    pub lease_default: Option<Lease>,
    pub lease_min: Option<Lease>,
    pub lease_max: Option<Lease>,
    pub locks_max: Option<u64>,
    pub waiters_max: Option<u64>,
    pub tokens_max: Option<u64>,
    pub private_namespaces: Option<bool>,
}

impl Plan {
    /// Minimum of a plan's lease range: a shorter lease could expire before the response arrives.
    pub const LEASE_MIN: Lease = Lease::from_ms(100);
    /// Maximum of a plan's lease range.
    pub const LEASE_MAX: Lease = Lease::from_secs(30 * 24 * 3600);
    /// Maximum of a plan's limits of locks and of queued requests.
    pub const COUNT_MAX: u64 = 10_000_000;
    /// Maximum of a plan's limit of tokens.
    pub const TOKENS_MAX: u64 = 10_000;

    fn changed(mut self, change: &PlanChange) -> Result<Self, AccountsError> {
        self.rate.per_second = change.per_second.unwrap_or(self.rate.per_second);
        self.rate.burst = change.burst.unwrap_or(self.rate.burst);
        self.lease_default = change.lease_default.unwrap_or(self.lease_default);
        self.lease_min = change.lease_min.unwrap_or(self.lease_min);
        self.lease_max = change.lease_max.unwrap_or(self.lease_max);
        self.locks_max = change.locks_max.unwrap_or(self.locks_max);
        self.waiters_max = change.waiters_max.unwrap_or(self.waiters_max);
        self.tokens_max = change.tokens_max.unwrap_or(self.tokens_max);
        self.private_namespaces = change.private_namespaces.unwrap_or(self.private_namespaces);
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), AccountsError> {
        let Rate { per_second, burst } = self.rate;
        let (shortest, longest) = (Self::LEASE_MIN, Self::LEASE_MAX);
        let complaint = if !(1..=Rate::PER_SECOND_MAX).contains(&per_second) {
            format!("a rate of {per_second}; the allowed range is 1 to {}", Rate::PER_SECOND_MAX)
        } else if !(1..=Rate::BURST_MAX).contains(&burst) {
            format!("a burst of {burst}; the allowed range is 1 to {}", Rate::BURST_MAX)
        } else if self.lease_min < shortest || longest < self.lease_max {
            format!(
                "leases from {} to {}; the allowed range is {shortest} to {longest}",
                self.lease_min, self.lease_max
            )
        } else if self.lease_default < self.lease_min || self.lease_max < self.lease_default {
            format!(
                "a default lease of {} outside its range of {} to {}",
                self.lease_default, self.lease_min, self.lease_max
            )
        } else if self.locks_max.max(self.waiters_max) > Self::COUNT_MAX {
            format!("more than {} locks or waiting requests", Self::COUNT_MAX)
        } else if !(1..=Self::TOKENS_MAX).contains(&self.tokens_max) {
            format!("{} tokens; the allowed range is 1 to {}", self.tokens_max, Self::TOKENS_MAX)
        } else {
            return Ok(());
        };
        Err(AccountsError::Plan(complaint))
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, AccountsError> {
        let number = |column: &str| -> Result<u64, AccountsError> {
            u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| AccountsError::Corrupt("a plan's limit"))
        };
        let small = |column: &str| u32::try_from(number(column)?).map_err(|_| AccountsError::Corrupt("a plan's rate"));
        let plan = Self {
            name: row.try_get("plan_name")?,
            rate: Rate { per_second: small("rate_per_second")?, burst: small("burst")? },
            lease_default: Lease::from_ms(number("lease_default_ms")?),
            lease_min: Lease::from_ms(number("lease_min_ms")?),
            lease_max: Lease::from_ms(number("lease_max_ms")?),
            locks_max: number("locks_max")?,
            waiters_max: number("waiters_max")?,
            tokens_max: number("tokens_max")?,
            private_namespaces: number("private_namespaces")? != 0,
        };
        // Rows may be edited by hand; an invalid one must not cause a division by zero.
        plan.check()?;
        Ok(plan)
    }
}

impl Database {
    /// Lists all plans, sorted by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_plans(&self) -> Result<Vec<Plan>, AccountsError> {
        let rows =
            sqlx::query("SELECT p.*, p.name AS plan_name FROM plans p ORDER BY name").fetch_all(self.pool()).await?;
        rows.iter().map(Plan::read).collect()
    }

    /// Changes the limits of a plan. They apply to all accounts of the plan within one second.
    ///
    /// # Errors
    /// If the plan does not exist, or a value is out of range.
    pub async fn set_plan_limits(&self, name: &str, limits: &PlanChange) -> Result<Plan, AccountsError> {
        let mut change = self.change(Actor::Operator).await?;
        let before = change.find_plan(name).await?;
        let after = before.clone().changed(limits)?;
        sqlx::query(
            "UPDATE plans SET rate_per_second = $1, burst = $2, lease_default_ms = $3, lease_min_ms = $4, \
             lease_max_ms = $5, locks_max = $6, waiters_max = $7, tokens_max = $8, private_namespaces = $9, revision = $10 \
             WHERE name = $11",
        )
        .bind(i64::from(after.rate.per_second))
        .bind(i64::from(after.rate.burst))
        .bind(after.lease_default.as_ms() as i64)
        .bind(after.lease_min.as_ms() as i64)
        .bind(after.lease_max.as_ms() as i64)
        .bind(after.locks_max as i64)
        .bind(after.waiters_max as i64)
        .bind(after.tokens_max as i64)
        .bind(i64::from(after.private_namespaces))
        .bind(change.seq())
        .bind(name)
        .execute(change.connection())
        .await?;
        change.record(None, "plan.set", serde_json::json!({ "before": before, "after": after })).await?;
        change.commit().await?;
        Ok(after)
    }
}
