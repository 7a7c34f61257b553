use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;

use super::account_rate_limiter::{AccountRateLimiter, ChargeMethod};
use crate::{
    lock::{AccountId, Rate, RateBucket, RateCharge, RateStatus},
    store::{BadReply, Reply, Script, Store, StoreError},
};

pub(super) static DRAW_RATE: Script =
    Script::new("draw_rate", concat!(include_str!("../../lua/prelude.lua"), include_str!("../../lua/draw_rate.lua")));

/// The request rates of accounts.
///
/// All tokens of an account share one rate, so more tokens give no higher rate.
///
/// Each request passes two limiters. The local limiter of the server has the plan's whole rate and
/// keeps bursts away from Redis. The shared limiter is a bucket in Redis for all servers. It is charged
///
/// - in the script that serves the request ([`RateCharge::InScript`]), without a round trip of its
///   own; or
/// - for an account with many requests, by credits: the server draws several at once and spends one
///   per request ([`RateCharge::Done`]).
///
/// A credit expires [`AccountRates::CREDIT_TTL`] after it was drawn. So the requests of any ten
/// seconds were all charged in these ten seconds or within one TTL before. The shared limiter's burst
/// is the plan's burst minus the requests that the plan refills in one TTL. The limiters therefore
/// never admit more requests in ten seconds than the plan's burst and ten seconds of its rate. A plan
/// with a burst too small for this reserve uses no credits: it charges every request in its script.
///
/// In a cluster the bucket of an account and the lock are in different hash slots, so no script can
/// charge the bucket. There every request spends a credit; an account with a small plan draws one
/// credit per request, which costs a round trip.
pub struct AccountRates {
    store: Store,
    limiters: Cache<(AccountId, Rate, RateClass), Arc<AccountRateLimiter>>,
}

/// A class of requests with a rate of its own. The rate of each class is the plan's whole rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateClass {
    /// Heartbeats and releases. Separate, so that other requests never cost an account its locks.
    Renewal,
    /// All other requests with a token.
    General,
    /// Account pages, over all sessions of the account.
    Page,
}

/// Whether a request is admitted, and how its rate is charged.
pub enum Admission {
    Admitted { charge: RateCharge, rate_status: RateStatus },
    Refused { retry_after: Duration, rate_status: RateStatus },
}

impl AccountRates {
    /// The lifetime of a credit.
    pub const CREDIT_TTL: Duration = Duration::from_millis(100);
    /// The number of cached limiters: one per account and class.
    pub const LIMITERS_MAX: u64 = 100_000;

    pub fn new(store: Store) -> Self {
        let limiters = Cache::builder().max_capacity(Self::LIMITERS_MAX).time_to_idle(Duration::from_secs(600)).build();
        Self { store, limiters }
    }

    /// The limiter of an account and class. Callers may keep it for some minutes.
    pub fn limiter(&self, account: AccountId, rate: Rate, class: RateClass) -> Arc<AccountRateLimiter> {
        self.limiters.get_with((account, rate, class), || {
            // The bucket is in the hash slot of the locks, so that their scripts can charge it. With
            // several shards it is in the shard of the account's id.
            let (name, shares_slot_with_locks) = (account.to_string(), !self.store.is_sharded());
            let kind = match class {
                RateClass::Renewal => "keep-rate",
                RateClass::General => "rate",
                RateClass::Page => "page-rate",
            };
            let bucket = self.store.key(self.store.shard_of(&name).tag, kind, &name);
            Arc::new(AccountRateLimiter::new(rate, bucket, shares_slot_with_locks))
        })
    }

    /// Admits or refuses one request of an account.
    ///
    /// # Errors
    /// When credits must be drawn and the store does not answer.
    pub async fn admit(&self, limiter: &AccountRateLimiter) -> Result<Admission, StoreError> {
        let (checked, rate_status) = limiter.check(Instant::now());
        match checked {
            Err(retry_after) => return Ok(Admission::Refused { retry_after, rate_status }),
            Ok(ChargeMethod::Credit) => return Ok(Admission::Admitted { charge: RateCharge::Done, rate_status }),
            Ok(ChargeMethod::InScript) => {
                return Ok(Admission::Admitted { charge: RateCharge::InScript(limiter.bucket()), rate_status });
            }
            Ok(ChargeMethod::Draw { .. }) => {}
        }
        // Boxed: few requests draw credits, and its future would enlarge the future of every request.
        let charged = Box::pin(self.charge(limiter)).await?;
        let rate_status = limiter.rate_status(Instant::now());
        Ok(match charged {
            Ok(charge) => Admission::Admitted { charge, rate_status },
            Err(retry_after) => Admission::Refused { retry_after, rate_status },
        })
    }

    /// Charges one request, drawing credits if none is left. The inner error is the time to wait.
    async fn charge(&self, limiter: &AccountRateLimiter) -> Result<Result<RateCharge, Duration>, StoreError> {
        // Concurrent requests wait for the drawn credits instead of drawing their own.
        let _guard = limiter.draw_mutex.lock().await;
        match limiter.charge(Instant::now()) {
            ChargeMethod::Credit => Ok(Ok(RateCharge::Done)),
            ChargeMethod::InScript => Ok(Ok(RateCharge::InScript(limiter.bucket()))),
            ChargeMethod::Draw { wanted } => self.draw(limiter, wanted).await.map(|refused| match refused {
                None => Ok(RateCharge::Done),
                Some(retry_after) => Err(retry_after),
            }),
        }
    }

    /// Draws credits and spends one. Returns the time to wait if the shared limiter refuses.
    async fn draw(&self, limiter: &AccountRateLimiter, wanted: u32) -> Result<Option<Duration>, StoreError> {
        let bucket = limiter.bucket();
        // The TTL starts before the script is sent, so no credit outlives it.
        let drawn_at = Instant::now();
        let reply = match draw_credits(&self.store, &bucket, wanted).await {
            Err(_) if limiter.bypass_shared(Instant::now()) => return Ok(None),
            reply => reply?,
        };
        let (rate_status, drawn) =
            read_draw_reply(&reply, bucket.rate).map_err(|bad| StoreError::Refused(bad.to_string()))?;
        limiter.record_shared(rate_status, drawn.err(), drawn_at);
        match drawn {
            Ok(credits) => {
                limiter.add_credits(credits, drawn_at);
                Ok(None)
            }
            Err(retry_after) => Ok(Some(retry_after)),
        }
    }
}

async fn draw_credits(store: &Store, bucket: &RateBucket, wanted: u32) -> Result<Reply, StoreError> {
    let interval_us = bucket.rate.interval_us();
    let burst_us = interval_us * f64::from(bucket.rate.burst);
    let args = [&*interval_us.to_string(), &burst_us.to_string(), &wanted.to_string()];
    store.eval(&DRAW_RATE, &[&bucket.key], &args).await
}

/// The rate status, and either the number of drawn credits or the time until one is free.
fn read_draw_reply(reply: &Reply, rate: Rate) -> Result<(RateStatus, Result<u32, Duration>), BadReply> {
    let rate_status = RateStatus::from_backlog_us(rate, reply.word(1)?);
    match reply.status() {
        "granted" => Ok((rate_status, Ok(reply.word(2)?))),
        "rate_limited" => Ok((rate_status, Err(Duration::from_micros(reply.word(2)?)))),
        _ => Err(reply.bad()),
    }
}
