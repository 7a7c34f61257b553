use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Any, Row, any::AnyRow, query::Query};
use tokio::time::timeout;

use super::{AccountsError, Database, Directory, measure::measured};
use crate::{
    keyspace::LOCK_TAG,
    lock::{Entered, Era, Fence, Ledger, LedgerError, LongGrant},
};

/// How many grants are read at a time.
const PAGE: i64 = 500;

/// How long a server that stops may take to write all of its grants: there may
/// be a hundred thousand, and nobody waits for an answer any more.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Only the process that has the grants may write them: its row is held until
/// that is done, so that none is written behind the back of the next one, which
/// reads them after it has entered.
const WRITE: &str = "INSERT INTO journal (place, tag, fence, expires_at, record) \
    SELECT $1, tag, $2, $3, $4 FROM keyspaces WHERE tag = $5 AND epoch = $6";
const ON_CONFLICT: &str = " ON CONFLICT (place) DO UPDATE SET tag = excluded.tag, fence = excluded.fence, \
    expires_at = excluded.expires_at, record = excluded.record WHERE journal.fence <= excluded.fence";

/// Whoever has all locks in one slot, and whoever has spread them over many, comes
/// after the other, whose grants may not have lapsed: then it is not the first.
const ERA: &str = "SELECT epoch, founded, short_ms, handed_over, last_fence, \
    (SELECT MAX(other.short_ms) FROM keyspaces AS other WHERE (other.tag = $2) <> ($1 = $2)) AS other_ms \
    FROM keyspaces WHERE tag = $1";

impl Ledger for Database {
    fn enter<'a>(&'a self, era: &'a Era, short: Duration) -> BoxFuture<'a, Result<Entered, LedgerError>> {
        Box::pin(in_time("ledger_enter", self.enter_era(era, short)))
    }

    fn write<'a>(&'a self, era: &'a Era, grant: &'a LongGrant) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(async move {
            // SQLite has one writer at a time, and no rows to hold.
            let hold = if self.is_embedded() { "" } else { " FOR SHARE" };
            let statement = sqlx::AssertSqlSafe([WRITE, hold, ON_CONFLICT].concat());
            let written =
                bind_grant(sqlx::query(statement), grant).bind(era.tag).bind(era.epoch_us as i64).execute(self.pool());
            match in_time("ledger_write", async { Ok(written.await?.rows_affected()) }).await? {
                0 => Err(LedgerError::Superseded),
                _ => Ok(()),
            }
        })
    }

    fn strike<'a>(&'a self, place: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), LedgerError>> {
        let struck = sqlx::query("DELETE FROM journal WHERE place = $1 AND fence <= $2")
            .bind(place)
            .bind(fence.as_u64() as i64)
            .execute(self.pool());
        Box::pin(in_time("ledger_strike", async { Ok(struck.await.map(drop)?) }))
    }

    fn page<'a>(
        &'a self,
        tag: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<LongGrant>, LedgerError>> {
        let rows = sqlx::query(
            "SELECT place, fence, expires_at, record FROM journal \
             WHERE (tag = $1 OR tag = $5 OR $1 = $5) AND expires_at > $2 AND place > $3 ORDER BY place LIMIT $4",
        )
        .bind(tag)
        .bind(now_ms as i64)
        .bind(after)
        .bind(PAGE)
        .bind(LOCK_TAG)
        .fetch_all(self.pool());
        Box::pin(in_time("ledger_page", async { rows.await?.iter().map(read_grant).collect() }))
    }

    fn hand_over<'a>(
        &'a self,
        era: &'a Era,
        last: Fence,
        grants: Vec<LongGrant>,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(within(HAND_OVER_TIMEOUT, "ledger_hand_over", self.hand_over_grants(era, last, grants)))
    }

    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), LedgerError>> {
        let swept =
            sqlx::query("DELETE FROM journal WHERE expires_at < $1").bind(before_ms as i64).execute(self.pool());
        Box::pin(in_time("ledger_sweep", async { Ok(swept.await.map(drop)?) }))
    }
}

impl Database {
    async fn enter_era(&self, era: &Era, short: Duration) -> Result<Entered, AccountsError> {
        let mut transaction = self.pool().begin().await?;
        // First of all, so that the transaction is a writer's from the beginning.
        let short_ms = short.as_millis() as i64;
        sqlx::query(
            "INSERT INTO keyspaces (tag, process, epoch, founded, short_ms) VALUES ($1, $2, $3, $3, $4) \
             ON CONFLICT (tag) DO UPDATE SET \
             process = CASE WHEN keyspaces.epoch > excluded.epoch THEN keyspaces.process ELSE excluded.process END, \
             epoch = CASE WHEN keyspaces.epoch > excluded.epoch THEN keyspaces.epoch ELSE excluded.epoch END, \
             short_ms = CASE WHEN keyspaces.short_ms > excluded.short_ms THEN keyspaces.short_ms \
             ELSE excluded.short_ms END",
        )
        .bind(era.tag)
        .bind(&era.process)
        .bind(era.epoch_us as i64)
        .bind(short_ms)
        .execute(&mut *transaction)
        .await?;
        let row = sqlx::query(ERA).bind(era.tag).bind(LOCK_TAG).fetch_one(&mut *transaction).await?;
        let number = |column: &str| row.try_get::<i64, _>(column);
        let epoch = number("epoch")?;
        if epoch != era.epoch_us as i64 {
            return Ok(Entered::Behind { epoch_us: epoch as u64 });
        }
        let entered = if number("handed_over")? != 0 {
            // Said once: what this process grants is not written yet.
            sqlx::query("UPDATE keyspaces SET handed_over = 0 WHERE tag = $1")
                .bind(era.tag)
                .execute(&mut *transaction)
                .await?;
            Entered::HandedOver { last: read_fence(row.try_get("last_fence")?)? }
        } else {
            let short = |ms: i64| Entered::Again { short: Duration::from_millis(ms as u64) };
            match (number("founded")? == epoch, row.try_get::<Option<i64>, _>("other_ms")?) {
                (true, None) => Entered::First,
                (true, Some(other_ms)) => short(other_ms.max(number("short_ms")?)),
                (false, _) => short(number("short_ms")?),
            }
        };
        transaction.commit().await?;
        Ok(entered)
    }

    async fn hand_over_grants(&self, era: &Era, last: Fence, grants: Vec<LongGrant>) -> Result<(), AccountsError> {
        let mut transaction = self.pool().begin().await?;
        let marked = sqlx::query("UPDATE keyspaces SET handed_over = 1, last_fence = $1 WHERE tag = $2 AND epoch = $3")
            .bind(last.as_u64() as i64)
            .bind(era.tag)
            .bind(era.epoch_us as i64)
            .execute(&mut *transaction)
            .await?;
        if marked.rows_affected() == 0 {
            return Err(AccountsError::Corrupt("another process has the grants"));
        }
        sqlx::query("DELETE FROM journal WHERE tag = $1").bind(era.tag).execute(&mut *transaction).await?;
        for grant in &grants {
            let insert = "INSERT INTO journal (place, fence, expires_at, record, tag) VALUES ($1, $2, $3, $4, $5)";
            bind_grant(sqlx::query(insert), grant).bind(era.tag).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

fn bind_grant<'q>(
    query: Query<'q, Any, sqlx::any::AnyArguments>,
    grant: &'q LongGrant,
) -> Query<'q, Any, sqlx::any::AnyArguments> {
    query.bind(&grant.place).bind(grant.fence.as_u64() as i64).bind(grant.expires_ms as i64).bind(&grant.record)
}

fn read_grant(row: &AnyRow) -> Result<LongGrant, AccountsError> {
    Ok(LongGrant {
        place: row.try_get("place")?,
        fence: read_fence(row.try_get("fence")?)?,
        expires_ms: row.try_get::<i64, _>("expires_at")? as u64,
        record: row.try_get("record")?,
    })
}

fn read_fence(number: i64) -> Result<Fence, AccountsError> {
    number.to_string().parse().map_err(|_| AccountsError::Corrupt("a fencing token"))
}

/// Gives the database as much time as somebody waits, and no more.
async fn in_time<T>(
    query: &'static str,
    work: impl Future<Output = Result<T, AccountsError>>,
) -> Result<T, LedgerError> {
    within(Directory::DATABASE_TIMEOUT, query, work).await
}

async fn within<T>(
    limit: Duration,
    query: &'static str,
    work: impl Future<Output = Result<T, AccountsError>>,
) -> Result<T, LedgerError> {
    let outcome = timeout(limit, measured(query, work)).await;
    outcome.unwrap_or(Err(AccountsError::TooSlow)).map_err(|error| LedgerError::Away(error.to_string()))
}
