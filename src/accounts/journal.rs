use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Any, Row, any::AnyRow, query::Query};
use tokio::time::timeout;

use super::{AccountsError, Database, TokenCache, metrics::measured};
use crate::{
    lock::{
        EndedGrant, Epoch, EpochStart, FencingToken, Journal, JournalError, JournalRow, RECENT_END, StoreRow,
        WriteOutcome,
    },
    store::LOCK_TAG,
};

/// Rows per page.
const PAGE_ROWS: i64 = 500;

/// Time limit for a stopping server to write all its grants. It is long, because there may be 100,000
/// grants and no request waits for them.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Only the process of the current epoch may write grants: the statement locks the epoch's row, so
/// that no grant is written after the next process has begun its epoch and reads the grants.
const WRITE: &str = "INSERT INTO journal (lock_key, fence, tag, seq, expires_at, record) \
    SELECT $1, $2, tag, $3, $4, $5 FROM stores WHERE tag = $6 AND epoch = $7";
/// Statements arrive in any order: the change with the largest number wins.
const ON_CONFLICT: &str = " ON CONFLICT (lock_key, fence) DO UPDATE SET tag = excluded.tag, seq = excluded.seq, \
    expires_at = excluded.expires_at, record = excluded.record WHERE journal.ended_at IS NULL AND journal.seq < excluded.seq";
const STATE: &str = "SELECT epoch, (SELECT CASE WHEN ended_at IS NULL THEN 0 ELSE 1 END FROM journal \
    WHERE lock_key = $2 AND fence = $3) AS ended FROM stores WHERE tag = $1";
/// The row stays without its grant. A grant that has ended may not have a row yet, while the
/// statement that writes it is in transit.
const END: &str = "INSERT INTO journal (lock_key, fence, tag, seq, expires_at, ended_at, record) \
    VALUES ($1, $2, $3, 0, $4, $5, '') ON CONFLICT (lock_key, fence) DO UPDATE SET ended_at = excluded.ended_at, record = '' \
    WHERE journal.ended_at IS NULL";
const SELECT_PAGE: &str = "SELECT lock_key, fence, seq, expires_at, record FROM journal AS entry \
    WHERE (tag = $1 OR tag = $5 OR $1 = $5) AND lock_key > $2 \
    AND (ended_at IS NULL AND expires_at > $3 OR ended_at > $3) \
    AND NOT EXISTS (SELECT 1 FROM journal AS later WHERE later.lock_key = entry.lock_key AND later.fence > entry.fence) \
    ORDER BY lock_key LIMIT $4";

/// `other_ms`: an installation can move from a single Redis (all locks in one hash slot) to a cluster
/// (many slots), or back. Grants of the former store may not have expired yet, so the first epoch of
/// the new slots is treated like a later one.
const EPOCH: &str = "SELECT epoch, founded, short_ms, handed_over, last_fence, last_before, \
    (SELECT MAX(other.short_ms) FROM stores AS other WHERE (other.tag = $2) <> ($1 = $2)) AS other_ms \
    FROM stores WHERE tag = $1";

impl Journal for Database {
    fn begin_epoch<'a>(&'a self, epoch: &'a Epoch, short: Duration) -> BoxFuture<'a, Result<EpochStart, JournalError>> {
        Box::pin(with_timeout("journal_begin_epoch", self.insert_epoch(epoch, short)))
    }

    fn write<'a>(&'a self, epoch: &'a Epoch, row: &'a JournalRow) -> BoxFuture<'a, Result<WriteOutcome, JournalError>> {
        Box::pin(async move {
            match with_timeout("journal_write", self.write_row(epoch, row)).await? {
                Some(written) => Ok(written),
                None => Err(JournalError::Superseded),
            }
        })
    }

    fn end<'a>(&'a self, grant: &'a EndedGrant, now_ms: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        let ended = sqlx::query(END)
            .bind(&grant.lock_key)
            .bind(grant.fence.as_u64() as i64)
            .bind(grant.tag)
            .bind(grant.until_ms as i64)
            .bind(now_ms as i64)
            .execute(self.pool());
        Box::pin(with_timeout("journal_end", async { Ok(ended.await.map(drop)?) }))
    }

    fn record_last_fence<'a>(&'a self, tag: &'a str, fence: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        let noted =
            sqlx::query("UPDATE stores SET last_fence = $2 WHERE tag = $1 AND last_fence < $2 AND handed_over = 0")
                .bind(tag)
                .bind(fence as i64)
                .execute(self.pool());
        Box::pin(with_timeout("journal_record_last_fence", async { Ok(noted.await.map(drop)?) }))
    }

    fn page<'a>(
        &'a self,
        tag: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>> {
        let rows = sqlx::query(SELECT_PAGE)
            .bind(tag)
            .bind(after)
            .bind(now_ms as i64 - RECENT_END.as_millis() as i64)
            .bind(PAGE_ROWS)
            .bind(LOCK_TAG)
            .fetch_all(self.pool());
        Box::pin(with_timeout("journal_page", async { rows.await?.iter().map(read_row).collect() }))
    }

    fn hand_over_epoch<'a>(
        &'a self,
        epoch: &'a Epoch,
        last: FencingToken,
        grants: Vec<JournalRow>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(within(HAND_OVER_TIMEOUT, "journal_hand_over", self.hand_over_grants(epoch, last, grants)))
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, JournalError>> {
        let rows = sqlx::query("SELECT tag, store, epoch, short_ms, heartbeats FROM stores").fetch_all(self.pool());
        Box::pin(with_timeout("journal_stores", async { rows.await?.iter().map(read_store).collect() }))
    }

    fn heartbeat<'a>(&'a self, stores: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(with_timeout("journal_heartbeat", async move {
            let parameters: Vec<String> = (1..=stores.len()).map(|number| format!("${number}")).collect();
            let statement =
                format!("UPDATE stores SET heartbeats = heartbeats + 1 WHERE store IN ({})", parameters.join(", "));
            let query = sqlx::query(sqlx::AssertSqlSafe(statement));
            let query = stores.iter().fold(query, |query, store| query.bind(*store));
            Ok(query.execute(self.pool()).await.map(drop)?)
        }))
    }

    fn claim<'a>(&'a self, row: &'a StoreRow, store: &'a str) -> BoxFuture<'a, Result<bool, JournalError>> {
        let claim = "UPDATE stores SET store = $3, heartbeats = heartbeats + 1 WHERE tag = $1 AND store = $2 AND heartbeats = $4";
        let claimed = sqlx::query(claim)
            .bind(&row.tag)
            .bind(&row.store)
            .bind(store)
            .bind(row.heartbeats as i64)
            .execute(self.pool());
        Box::pin(with_timeout("journal_claim", async { Ok(claimed.await?.rows_affected() > 0) }))
    }

    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        let swept = sqlx::query("DELETE FROM journal WHERE ended_at < $1 OR (ended_at IS NULL AND expires_at < $1)")
            .bind(before_ms as i64)
            .execute(self.pool());
        Box::pin(with_timeout("journal_sweep", async { Ok(swept.await.map(drop)?) }))
    }
}

impl Database {
    /// Returns the name of this database's last process if it has left grants.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_process_with_grants(&self) -> Result<Option<String>, AccountsError> {
        let process = "SELECT process FROM stores WHERE EXISTS (SELECT 1 FROM journal WHERE ended_at IS NULL)";
        let row = sqlx::query(process).fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("process")).transpose()?)
    }

    /// Returns `None` if another process has the epoch.
    async fn write_row(&self, epoch: &Epoch, row: &JournalRow) -> Result<Option<WriteOutcome>, AccountsError> {
        // SQLite has one writer at a time and no row locks.
        let hold = if self.is_embedded() { "" } else { " FOR SHARE" };
        let statement = sqlx::AssertSqlSafe([WRITE, hold, ON_CONFLICT].concat());
        let written = bind_row(sqlx::query(statement), row).bind(epoch.tag).bind(epoch.epoch_us as i64);
        if written.execute(self.pool()).await?.rows_affected() > 0 {
            return Ok(Some(WriteOutcome::Recorded));
        }
        let state = sqlx::query(STATE).bind(epoch.tag).bind(&row.lock_key).bind(row.fence.as_u64() as i64);
        let Some(state) = state.fetch_optional(self.pool()).await? else { return Ok(None) };
        if state.try_get::<i64, _>("epoch")? != epoch.epoch_us as i64 {
            return Ok(None);
        }
        Ok(match state.try_get::<Option<i64>, _>("ended")? {
            Some(0) => Some(WriteOutcome::Outdated),
            Some(_) => Some(WriteOutcome::Ended),
            // The row was deleted, or another process has begun and ended an epoch in between.
            None => None,
        })
    }

    async fn insert_epoch(&self, epoch: &Epoch, short: Duration) -> Result<EpochStart, AccountsError> {
        let mut transaction = self.pool().begin().await?;
        // The first statement writes, so that SQLite opens a write transaction from the beginning.
        let short_ms = short.as_millis() as i64;
        let entered = sqlx::query(
            "INSERT INTO stores (tag, process, epoch, founded, short_ms, store) SELECT $1, $2, $3, $3, $4, $5 \
             WHERE NOT EXISTS (SELECT 1 FROM stores AS other WHERE (other.tag = $6) <> ($1 = $6) AND other.store <> '') \
             ON CONFLICT (tag) DO UPDATE SET \
             last_before = CASE WHEN stores.epoch < excluded.epoch THEN stores.last_fence \
             ELSE stores.last_before END, process = CASE WHEN stores.epoch > excluded.epoch THEN stores.process ELSE excluded.process END, \
             epoch = CASE WHEN stores.epoch > excluded.epoch THEN stores.epoch ELSE excluded.epoch END, \
             short_ms = CASE WHEN stores.short_ms > excluded.short_ms THEN stores.short_ms \
             ELSE excluded.short_ms END WHERE stores.store = excluded.store",
        )
        .bind(epoch.tag)
        .bind(&epoch.process)
        .bind(epoch.epoch_us as i64)
        .bind(short_ms)
        .bind(&epoch.store)
        .bind(LOCK_TAG)
        .execute(&mut *transaction)
        .await?;
        if entered.rows_affected() == 0 {
            return Ok(EpochStart::OtherStore);
        }
        let row = sqlx::query(EPOCH).bind(epoch.tag).bind(LOCK_TAG).fetch_one(&mut *transaction).await?;
        let number = |column: &str| row.try_get::<i64, _>(column);
        let entered_us = number("epoch")?;
        if entered_us != epoch.epoch_us as i64 {
            return Ok(EpochStart::Behind { epoch_us: entered_us as u64 });
        }
        let entered = if number("handed_over")? != 0 {
            // Clear the mark of the hand-over: the grants of the new process are not written yet.
            sqlx::query("UPDATE stores SET handed_over = 0 WHERE tag = $1")
                .bind(epoch.tag)
                .execute(&mut *transaction)
                .await?;
            EpochStart::HandedOver { last_fence: read_fence(row.try_get("last_fence")?)? }
        } else {
            let last_fence = number("last_before")? as u64;
            let short =
                |ms: i64| EpochStart::MayHaveGrants { journal_above: Duration::from_millis(ms as u64), last_fence };
            // A missing row is no proof of a first epoch, because the database may have lost it. The
            // epoch is the first only if the store is new, too.
            match (
                number("founded")? == entered_us && epoch.founded_us == epoch.epoch_us,
                row.try_get::<Option<i64>, _>("other_ms")?,
            ) {
                (true, None) => EpochStart::First,
                (true, Some(other_ms)) => short(other_ms.max(number("short_ms")?)),
                (false, _) => short(number("short_ms")?),
            }
        };
        transaction.commit().await?;
        Ok(entered)
    }

    async fn hand_over_grants(
        &self,
        epoch: &Epoch,
        last: FencingToken,
        grants: Vec<JournalRow>,
    ) -> Result<(), AccountsError> {
        let mut transaction = self.pool().begin().await?;
        let marked = sqlx::query("UPDATE stores SET handed_over = 1, last_fence = $1 WHERE tag = $2 AND epoch = $3")
            .bind(last.as_u64() as i64)
            .bind(epoch.tag)
            .bind(epoch.epoch_us as i64)
            .execute(&mut *transaction)
            .await?;
        if marked.rows_affected() == 0 {
            return Err(AccountsError::Corrupt("another process has the grants"));
        }
        sqlx::query("DELETE FROM journal WHERE tag = $1").bind(epoch.tag).execute(&mut *transaction).await?;
        for grant in &grants {
            let insert =
                "INSERT INTO journal (lock_key, fence, seq, expires_at, record, tag) VALUES ($1, $2, $3, $4, $5, $6)";
            bind_row(sqlx::query(insert), grant).bind(epoch.tag).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

fn bind_row<'q>(
    query: Query<'q, Any, sqlx::any::AnyArguments>,
    row: &'q JournalRow,
) -> Query<'q, Any, sqlx::any::AnyArguments> {
    let (fence, seq) = (row.fence.as_u64() as i64, row.seq as i64);
    query.bind(&row.lock_key).bind(fence).bind(seq).bind(row.expires_ms as i64).bind(&row.stored_grant)
}

fn read_row(row: &AnyRow) -> Result<JournalRow, AccountsError> {
    Ok(JournalRow {
        lock_key: row.try_get("lock_key")?,
        fence: read_fence(row.try_get("fence")?)?,
        seq: row.try_get::<i64, _>("seq")? as u64,
        expires_ms: row.try_get::<i64, _>("expires_at")? as u64,
        stored_grant: row.try_get("record")?,
    })
}

fn read_store(row: &AnyRow) -> Result<StoreRow, AccountsError> {
    Ok(StoreRow {
        tag: row.try_get("tag")?,
        store: row.try_get("store")?,
        epoch_us: row.try_get::<i64, _>("epoch")? as u64,
        journal_above: Duration::from_millis(row.try_get::<i64, _>("short_ms")? as u64),
        heartbeats: row.try_get::<i64, _>("heartbeats")? as u64,
    })
}

fn read_fence(number: i64) -> Result<FencingToken, AccountsError> {
    number.to_string().parse().map_err(|_| AccountsError::Corrupt("a fencing token"))
}

/// Runs a query within the time limit of a request.
async fn with_timeout<T>(
    query: &'static str,
    work: impl Future<Output = Result<T, AccountsError>>,
) -> Result<T, JournalError> {
    within(TokenCache::DATABASE_TIMEOUT, query, work).await
}

async fn within<T>(
    limit: Duration,
    query: &'static str,
    work: impl Future<Output = Result<T, AccountsError>>,
) -> Result<T, JournalError> {
    let outcome = timeout(limit, measured(query, work)).await;
    outcome.unwrap_or(Err(AccountsError::TooSlow)).map_err(|error| JournalError::Unavailable(error.to_string()))
}
