use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Any, Row, any::AnyRow, query::Query};
use tokio::time::timeout;

use super::{AccountsError, Database, Directory, metrics::measured};
use crate::{
    lock::{
        EndedGrant, Entered, Epoch, FencingToken, Journal, JournalError, JournalRow, RECENT_END, StoreRow, Written,
    },
    store::LOCK_TAG,
};

/// How many grants are read at a time.
const PAGE: i64 = 500;

/// How long a server that stops may take to write all of its grants: there may
/// be a hundred thousand, and nobody waits for an answer any more.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Only the process that has the grants may write them: its row is held until
/// that is done, so that none is written behind the back of the next one, which
/// reads them after it has entered.
const WRITE: &str = "INSERT INTO journal (lock_key, fence, tag, seq, expires_at, record) \
    SELECT $1, $2, tag, $3, $4, $5 FROM stores WHERE tag = $6 AND epoch = $7";
/// Statements arrive in any order: the change with the largest number stays.
const ON_CONFLICT: &str = " ON CONFLICT (lock_key, fence) DO UPDATE SET tag = excluded.tag, seq = excluded.seq, \
    expires_at = excluded.expires_at, record = excluded.record WHERE journal.ended_at IS NULL AND journal.seq < excluded.seq";
const STATE: &str = "SELECT epoch, (SELECT CASE WHEN ended_at IS NULL THEN 0 ELSE 1 END FROM journal \
    WHERE lock_key = $2 AND fence = $3) AS ended FROM stores WHERE tag = $1";
/// The row stays, without its grant. A grant that has ended can have no row yet, while
/// the statement that writes it is on its way.
const END: &str = "INSERT INTO journal (lock_key, fence, tag, seq, expires_at, ended_at, record) \
    VALUES ($1, $2, $3, 0, $4, $5, '') ON CONFLICT (lock_key, fence) DO UPDATE SET ended_at = excluded.ended_at, record = '' \
    WHERE journal.ended_at IS NULL";
const PAGE_OF: &str = "SELECT lock_key, fence, seq, expires_at, record FROM journal AS entry \
    WHERE (tag = $1 OR tag = $5 OR $1 = $5) AND lock_key > $2 \
    AND (ended_at IS NULL AND expires_at > $3 OR ended_at > $3) \
    AND NOT EXISTS (SELECT 1 FROM journal AS later WHERE later.lock_key = entry.lock_key AND later.fence > entry.fence) \
    ORDER BY lock_key LIMIT $4";

/// Whoever has all locks in one slot, and whoever has spread them over many, comes
/// after the other, whose grants may not have lapsed: then it is not the first.
const EPOCH: &str = "SELECT epoch, founded, short_ms, handed_over, last_fence, last_before, \
    (SELECT MAX(other.short_ms) FROM stores AS other WHERE (other.tag = $2) <> ($1 = $2)) AS other_ms \
    FROM stores WHERE tag = $1";

impl Journal for Database {
    fn enter<'a>(&'a self, epoch: &'a Epoch, short: Duration) -> BoxFuture<'a, Result<Entered, JournalError>> {
        Box::pin(in_time("journal_enter", self.enter_epoch(epoch, short)))
    }

    fn write<'a>(&'a self, epoch: &'a Epoch, row: &'a JournalRow) -> BoxFuture<'a, Result<Written, JournalError>> {
        Box::pin(async move {
            match in_time("journal_write", self.write_row(epoch, row)).await? {
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
        Box::pin(in_time("journal_end", async { Ok(ended.await.map(drop)?) }))
    }

    fn note_fence<'a>(&'a self, tag: &'a str, fence: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        let noted =
            sqlx::query("UPDATE stores SET last_fence = $2 WHERE tag = $1 AND last_fence < $2 AND handed_over = 0")
                .bind(tag)
                .bind(fence as i64)
                .execute(self.pool());
        Box::pin(in_time("journal_note_fence", async { Ok(noted.await.map(drop)?) }))
    }

    fn page<'a>(
        &'a self,
        tag: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>> {
        let rows = sqlx::query(PAGE_OF)
            .bind(tag)
            .bind(after)
            .bind(now_ms as i64 - RECENT_END.as_millis() as i64)
            .bind(PAGE)
            .bind(LOCK_TAG)
            .fetch_all(self.pool());
        Box::pin(in_time("journal_page", async { rows.await?.iter().map(read_row).collect() }))
    }

    fn hand_over<'a>(
        &'a self,
        epoch: &'a Epoch,
        last: FencingToken,
        grants: Vec<JournalRow>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(within(HAND_OVER_TIMEOUT, "journal_hand_over", self.hand_over_grants(epoch, last, grants)))
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, JournalError>> {
        let rows = sqlx::query("SELECT tag, store, epoch, short_ms, beat FROM stores").fetch_all(self.pool());
        Box::pin(in_time("journal_stores", async { rows.await?.iter().map(read_store).collect() }))
    }

    fn beat<'a>(&'a self, stores: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(in_time("journal_beat", async move {
            let parameters: Vec<String> = (1..=stores.len()).map(|number| format!("${number}")).collect();
            let statement = format!("UPDATE stores SET beat = beat + 1 WHERE store IN ({})", parameters.join(", "));
            let query = sqlx::query(sqlx::AssertSqlSafe(statement));
            let query = stores.iter().fold(query, |query, store| query.bind(*store));
            Ok(query.execute(self.pool()).await.map(drop)?)
        }))
    }

    fn claim<'a>(&'a self, row: &'a StoreRow, store: &'a str) -> BoxFuture<'a, Result<bool, JournalError>> {
        let claim = "UPDATE stores SET store = $3, beat = beat + 1 WHERE tag = $1 AND store = $2 AND beat = $4";
        let claimed =
            sqlx::query(claim).bind(&row.tag).bind(&row.store).bind(store).bind(row.beat as i64).execute(self.pool());
        Box::pin(in_time("journal_claim", async { Ok(claimed.await?.rows_affected() > 0) }))
    }

    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        let swept = sqlx::query("DELETE FROM journal WHERE ended_at < $1 OR (ended_at IS NULL AND expires_at < $1)")
            .bind(before_ms as i64)
            .execute(self.pool());
        Box::pin(in_time("journal_sweep", async { Ok(swept.await.map(drop)?) }))
    }
}

impl Database {
    /// How the last store of this database called itself, if it has left grants.
    ///
    /// # Errors
    /// When the database could not be asked.
    pub async fn last_process_with_grants(&self) -> Result<Option<String>, AccountsError> {
        let process = "SELECT process FROM stores WHERE EXISTS (SELECT 1 FROM journal WHERE ended_at IS NULL)";
        let row = sqlx::query(process).fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("process")).transpose()?)
    }

    /// Nothing when another process has the grants.
    async fn write_row(&self, epoch: &Epoch, row: &JournalRow) -> Result<Option<Written>, AccountsError> {
        // SQLite has one writer at a time, and no rows to hold.
        let hold = if self.is_embedded() { "" } else { " FOR SHARE" };
        let statement = sqlx::AssertSqlSafe([WRITE, hold, ON_CONFLICT].concat());
        let written = bind_row(sqlx::query(statement), row).bind(epoch.tag).bind(epoch.epoch_us as i64);
        if written.execute(self.pool()).await?.rows_affected() > 0 {
            return Ok(Some(Written::Recorded));
        }
        let state = sqlx::query(STATE).bind(epoch.tag).bind(&row.lock_key).bind(row.fence.as_u64() as i64);
        let Some(state) = state.fetch_optional(self.pool()).await? else { return Ok(None) };
        if state.try_get::<i64, _>("epoch")? != epoch.epoch_us as i64 {
            return Ok(None);
        }
        Ok(match state.try_get::<Option<i64>, _>("ended")? {
            Some(0) => Some(Written::Outdated),
            Some(_) => Some(Written::Ended),
            // It was swept, or another process has entered and left in between.
            None => None,
        })
    }

    async fn enter_epoch(&self, epoch: &Epoch, short: Duration) -> Result<Entered, AccountsError> {
        let mut transaction = self.pool().begin().await?;
        // First of all, so that the transaction is a writer's from the beginning.
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
            return Ok(Entered::Elsewhere);
        }
        let row = sqlx::query(EPOCH).bind(epoch.tag).bind(LOCK_TAG).fetch_one(&mut *transaction).await?;
        let number = |column: &str| row.try_get::<i64, _>(column);
        let entered_us = number("epoch")?;
        if entered_us != epoch.epoch_us as i64 {
            return Ok(Entered::Behind { epoch_us: entered_us as u64 });
        }
        let entered = if number("handed_over")? != 0 {
            // Said once: what this process grants is not written yet.
            sqlx::query("UPDATE stores SET handed_over = 0 WHERE tag = $1")
                .bind(epoch.tag)
                .execute(&mut *transaction)
                .await?;
            Entered::HandedOver { last: read_fence(row.try_get("last_fence")?)? }
        } else {
            let last = number("last_before")? as u64;
            let short = |ms: i64| Entered::Again { short: Duration::from_millis(ms as u64), last };
            // Without a row the database may have lost it; the store knows whether it is new.
            match (
                number("founded")? == entered_us && epoch.founded_us == epoch.epoch_us,
                row.try_get::<Option<i64>, _>("other_ms")?,
            ) {
                (true, None) => Entered::First,
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
    query.bind(&row.lock_key).bind(fence).bind(seq).bind(row.expires_ms as i64).bind(&row.record)
}

fn read_row(row: &AnyRow) -> Result<JournalRow, AccountsError> {
    Ok(JournalRow {
        lock_key: row.try_get("lock_key")?,
        fence: read_fence(row.try_get("fence")?)?,
        seq: row.try_get::<i64, _>("seq")? as u64,
        expires_ms: row.try_get::<i64, _>("expires_at")? as u64,
        record: row.try_get("record")?,
    })
}

fn read_store(row: &AnyRow) -> Result<StoreRow, AccountsError> {
    Ok(StoreRow {
        tag: row.try_get("tag")?,
        store: row.try_get("store")?,
        epoch_us: row.try_get::<i64, _>("epoch")? as u64,
        short: Duration::from_millis(row.try_get::<i64, _>("short_ms")? as u64),
        beat: row.try_get::<i64, _>("beat")? as u64,
    })
}

fn read_fence(number: i64) -> Result<FencingToken, AccountsError> {
    number.to_string().parse().map_err(|_| AccountsError::Corrupt("a fencing token"))
}

/// Gives the database as much time as somebody waits, and no more.
async fn in_time<T>(
    query: &'static str,
    work: impl Future<Output = Result<T, AccountsError>>,
) -> Result<T, JournalError> {
    within(Directory::DATABASE_TIMEOUT, query, work).await
}

async fn within<T>(
    limit: Duration,
    query: &'static str,
    work: impl Future<Output = Result<T, AccountsError>>,
) -> Result<T, JournalError> {
    let outcome = timeout(limit, measured(query, work)).await;
    outcome.unwrap_or(Err(AccountsError::TooSlow)).map_err(|error| JournalError::Away(error.to_string()))
}
