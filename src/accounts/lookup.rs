use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Row, any::AnyRow};
use uuid::Uuid;

use super::{AccountsError, Caller, Database, Plan, Scopes, TokenHash, cache::SharedCache, change::now_ms};
use crate::lock::{AccountId, Label, Lease, Namespace, NamespaceId};

/// The changes after a given change.
#[derive(Debug, Default)]
pub(super) struct ChangeSet {
    /// The number of the last change.
    pub seq: i64,
    pub accounts: BTreeSet<AccountId>,
    /// A plan has changed, or too many accounts to list: every account may have changed.
    pub plans: bool,
}

impl Database {
    /// Tokens per statement that records their last use.
    const LAST_USED_BATCH: usize = 500;

    /// Reads the caller of a token, and the number of the last change before the read. `None` for
    /// an unknown, revoked or expired token.
    pub(super) async fn find_caller(&self, hash: &TokenHash) -> Result<Option<(i64, Caller)>, AccountsError> {
        let row = sqlx::query(
            "SELECT r.seq, t.id, t.account, t.label, t.may_lock, t.may_manage, t.default_namespace, t.last_used_hour, t.expires_at, \
             a.lease_ms, a.suspended_at, p.*, p.name AS plan_name \
             FROM tokens t JOIN accounts a ON a.id = t.account JOIN plans p ON p.name = a.plan, revision r \
             WHERE t.hash = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)",
        )
        .bind(hash.to_string())
        .bind(now_ms())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let account: String = row.try_get("account")?;
        let namespaces = sqlx::query("SELECT id, name FROM namespaces WHERE account = $1 ORDER BY name")
            .bind(&account)
            .fetch_all(self.pool())
            .await?;
        let caller = Caller {
            account: account.parse().map_err(|_| AccountsError::Corrupt("an account's id"))?,
            token: Uuid::try_parse(row.try_get("id")?).map_err(|_| AccountsError::Corrupt("a token's id"))?,
            label: Label::parse(row.try_get::<String, _>("label")?)
                .map_err(|_| AccountsError::Corrupt("a token's label"))?,
            scopes: Scopes {
                lock: row.try_get::<i64, _>("may_lock")? != 0,
                manage: row.try_get::<i64, _>("may_manage")? != 0,
            },
            suspended: row.try_get::<Option<i64>, _>("suspended_at")?.is_some(),
            plan: Plan::read(&row)?,
            own_lease: row.try_get::<Option<i64>, _>("lease_ms")?.map(|ms| Lease::from_ms(ms.max(0) as u64)),
            namespaces: namespaces.iter().map(read_namespace).collect::<Result<_, _>>()?,
            default_namespace: row.try_get::<String, _>("default_namespace")?.parse()?,
            last_used_hour: row.try_get("last_used_hour")?,
            expires_at: row.try_get("expires_at")?,
        };
        Ok(Some((row.try_get("seq")?, caller)))
    }

    /// Reads the number of the last change.
    pub(super) async fn last_change(&self) -> Result<i64, AccountsError> {
        Ok(sqlx::query_scalar("SELECT seq FROM revision").fetch_one(self.pool()).await?)
    }

    /// Reads the accounts that have changed after the change `seen`.
    pub(super) async fn changes_since(&self, seen: i64) -> Result<ChangeSet, AccountsError> {
        // The number is read first: later commits are found again in the next round.
        let seq = self.last_change().await?;
        let plans: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM plans WHERE revision > $1")
            .bind(seen)
            .fetch_one(self.pool())
            .await?;
        let most = SharedCache::CHANGED_ACCOUNTS_MAX as i64;
        let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM accounts WHERE revision > $1 LIMIT $2")
            .bind(seen)
            .bind(most + 1)
            .fetch_all(self.pool())
            .await?;
        if plans > 0 || ids.len() > SharedCache::CHANGED_ACCOUNTS_MAX {
            return Ok(ChangeSet::everything(seq));
        }
        let accounts = ids.iter().map(|id| id.parse().map_err(|_| AccountsError::Corrupt("an account's id")));
        Ok(ChangeSet { seq, accounts: accounts.collect::<Result<_, _>>()?, plans: false })
    }

    /// Raises the change counter to at least `seq` and returns it.
    pub(super) async fn count_from(&self, seq: i64) -> Result<i64, AccountsError> {
        sqlx::query("UPDATE revision SET seq = $1 WHERE seq < $1").bind(seq).execute(self.pool()).await?;
        self.last_change().await
    }

    /// Records the last use of tokens, in hours since 1970.
    pub(super) async fn write_last_used(&self, used: &[(Uuid, i64)]) -> Result<(), AccountsError> {
        let mut by_hour = BTreeMap::<i64, BTreeSet<String>>::new();
        for (token, hour) in used {
            by_hour.entry(*hour).or_default().insert(token.to_string());
        }
        for (hour, tokens) in by_hour {
            // Sorted batches: servers that record the same tokens must not deadlock, and an
            // operator's change must not wait for all of them.
            for batch in tokens.into_iter().collect::<Vec<_>>().chunks(Self::LAST_USED_BATCH) {
                self.write_last_used_hour(hour, batch).await?;
            }
        }
        Ok(())
    }

    async fn write_last_used_hour(&self, hour: i64, tokens: &[String]) -> Result<(), AccountsError> {
        let numbers: Vec<String> = (2..tokens.len() + 2).map(|number| format!("${number}")).collect();
        let statement = format!(
            "UPDATE tokens SET last_used_hour = $1 WHERE (last_used_hour IS NULL OR last_used_hour < $1) AND id IN ({})",
            numbers.join(", ")
        );
        // Safe: the text contains only parameter numbers.
        let query = sqlx::query(AssertSqlSafe(statement)).bind(hour);
        tokens.iter().fold(query, sqlx::query::Query::bind).execute(self.pool()).await?;
        Ok(())
    }
}

impl ChangeSet {
    /// Every account may have changed.
    pub(super) fn everything(seq: i64) -> Self {
        Self { seq, plans: true, ..Self::default() }
    }
}

fn read_namespace(row: &AnyRow) -> Result<Namespace, AccountsError> {
    let id: NamespaceId = row.try_get::<String, _>("id")?.parse()?;
    Ok(Namespace { id, name: row.try_get("name")? })
}
