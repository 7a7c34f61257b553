use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;

use super::token_limiter::{Draw, Meter};
use crate::{
    lock::{AccountId, Payment, Rate, RateDue, RateStanding},
    store::{BadReply, Reply, Script, Store, StoreError},
};

pub(super) static PERMITS: Script =
    Script::new("draw_rate", concat!(include_str!("../../lua/prelude.lua"), include_str!("../../lua/draw_rate.lua")));

/// The rates of accounts.
///
/// All tokens of an account draw on one rate, so that more tokens get no more. A
/// token's own rate is the same figure, and nothing has to count it: a token makes no
/// more requests than its account.
///
/// Each account passes two limiters. One in the pod, with the whole rate of the
/// plan, keeps a burst away from Redis. The other is shared by all pods and
/// stands in Redis; it is charged
///
/// - in the script that serves the request ([`Payment::Due`]), at no round trip
///   of its own; or
/// - for an account that asks much, by permits that are drawn several at a time
///   and handed out by the pod ([`Payment::Paid`]).
///
/// A permit may be used [`Rates::PERMIT_LIFE`] after it was charged at the
/// latest. So in any ten seconds no more requests get through than were charged
/// in these and that much before; and since the shared limiter's burst is
/// smaller than the plan's by as many as are refilled in that time, never more
/// than the plan's rate for ten seconds, and its burst. Plans too small for
/// that reserve pay each request in its script, and have their burst whole.
///
/// In a cluster an account's bucket is not where the lock is, so no script can charge
/// both: there all is paid by permits, for a small plan by one for each request,
/// which costs a round trip of its own.
pub struct Rates {
    store: Store,
    meters: Cache<(AccountId, Rate, RateShare), Arc<Meter>>,
}

/// Which requests of an account are counted together. The shares of a token's requests
/// are each as large as the rate of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateShare {
    /// Heartbeats and releases: however much else an account asks for, it keeps what it
    /// holds.
    Keep,
    /// All others with a token.
    Ask,
    /// Account pages, whichever session asks for them.
    Page,
}

/// Whether a request may go on.
pub enum Admission {
    Admitted { payment: Payment, standing: RateStanding },
    Refused { retry_after: Duration, standing: RateStanding },
}

impl Rates {
    /// How long a permit may be used after it was drawn.
    pub const PERMIT_LIFE: Duration = Duration::from_millis(100);
    /// Of how many shares of accounts the limiters are remembered.
    pub const METERS_MAX: u64 = 100_000;

    pub fn new(store: Store) -> Self {
        let meters = Cache::builder().max_capacity(Self::METERS_MAX).time_to_idle(Duration::from_secs(600)).build();
        Self { store, meters }
    }

    /// What is known of an account's rate. It may be kept for some minutes.
    pub fn meter(&self, account: AccountId, rate: Rate, share: RateShare) -> Arc<Meter> {
        self.meters.get_with((account, rate, share), || {
            // In the hash slot of the locks, so that their scripts can charge it. Where
            // they are in many it is in that which the account has among them.
            let (name, is_beside_locks) = (account.to_string(), !self.store.is_spread());
            let kind = match share {
                RateShare::Keep => "keep-rate",
                RateShare::Ask => "rate",
                RateShare::Page => "page-rate",
            };
            let bucket = self.store.key(self.store.shard_of(&name).tag, kind, &name);
            Arc::new(Meter::new(rate, bucket, is_beside_locks))
        })
    }

    /// Counts one request of an account, or refuses it.
    ///
    /// # Errors
    /// When permits had to be drawn and the store gave no answer.
    pub async fn admit(&self, meter: &Meter) -> Result<Admission, StoreError> {
        let (asked, standing) = meter.ask(Instant::now());
        match asked {
            Err(retry_after) => return Ok(Admission::Refused { retry_after, standing }),
            Ok(Draw::Permit) => return Ok(Admission::Admitted { payment: Payment::Paid, standing }),
            Ok(Draw::PayInScript) => {
                return Ok(Admission::Admitted { payment: Payment::Due(meter.due()), standing });
            }
            Ok(Draw::Refill { .. }) => {}
        }
        // Boxed: its room would be taken in every request, most of which draw
        // nothing.
        let paid = Box::pin(self.pay(meter)).await?;
        let standing = meter.standing(Instant::now());
        Ok(match paid {
            Ok(payment) => Admission::Admitted { payment, standing },
            Err(retry_after) => Admission::Refused { retry_after, standing },
        })
    }

    /// Pays for a request, or says how long there is nothing to pay with.
    async fn pay(&self, meter: &Meter) -> Result<Result<Payment, Duration>, StoreError> {
        // Those who come while permits are drawn wait, and share what it brings.
        let _turn = meter.drawing.lock().await;
        match meter.draw(Instant::now()) {
            Draw::Permit => Ok(Ok(Payment::Paid)),
            Draw::PayInScript => Ok(Ok(Payment::Due(meter.due()))),
            Draw::Refill { wanted } => self.refill(meter, wanted).await.map(|refused| match refused {
                None => Ok(Payment::Paid),
                Some(retry_after) => Err(retry_after),
            }),
        }
    }

    /// Draws permits and takes one, or says how long there will be none.
    async fn refill(&self, meter: &Meter, wanted: u32) -> Result<Option<Duration>, StoreError> {
        let due = meter.due();
        // Permits age from before they were asked for: never too late.
        let drawn_at = Instant::now();
        let reply = match draw_permits(&self.store, &due, wanted).await {
            Err(_) if meter.go_on_without(Instant::now()) => return Ok(None),
            reply => reply?,
        };
        let (standing, drawn) = read_drawn(&reply, due.rate).map_err(|bad| StoreError::Refused(bad.to_string()))?;
        meter.settle(standing, drawn.err(), drawn_at);
        match drawn {
            Ok(permits) => {
                meter.fill(permits, drawn_at);
                Ok(None)
            }
            Err(retry_after) => Ok(Some(retry_after)),
        }
    }
}

async fn draw_permits(store: &Store, due: &RateDue, wanted: u32) -> Result<Reply, StoreError> {
    let interval_us = due.rate.interval_us();
    let burst_us = interval_us * f64::from(due.rate.burst);
    let args = [&*interval_us.to_string(), &burst_us.to_string(), &wanted.to_string()];
    store.run(&PERMITS, &[&due.bucket], &args).await
}

/// How the account stands, and how many permits there were or how long there
/// will be none.
fn read_drawn(reply: &Reply, rate: Rate) -> Result<(RateStanding, Result<u32, Duration>), BadReply> {
    let standing = RateStanding::from_backlog_us(rate, reply.word(1)?);
    match reply.status() {
        "granted" => Ok((standing, Ok(reply.word(2)?))),
        "rate_limited" => Ok((standing, Err(Duration::from_micros(reply.word(2)?)))),
        _ => Err(reply.bad()),
    }
}
