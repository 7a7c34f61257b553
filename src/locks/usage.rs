//! How many locks an account may hold in one shard of a cluster, where its plan
//! says how many it may in all. A script counts its own shard. What the account
//! has in the others is counted once a second while it asks for locks, more often
//! as it comes near its quota, and anew before it is refused any, unless it is
//! refused again and again.

mod known;
mod tally;

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use governor::Quota;
use moka::sync::Cache;
use tokio::time::{MissedTickBehavior, interval};

use self::known::Known;
use super::{
    Answer, Locks, LocksError, Turn,
    keys::{held_key, waiting_key},
    requests::{AcquireRequest, script},
};
use crate::{
    lock::{AccountId, AcquireOutcome, Attempt, Payment, Refusal},
    store::{Script, Shard},
};

static COUNT: Script = script!("usage_in_shard");

/// What accounts have in the shards, as far as it was counted.
pub(super) struct Quotas(Cache<AccountId, Arc<Known>>);

impl Default for Quotas {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(Self::ACCOUNTS_MAX).time_to_idle(Self::KEPT).build())
    }
}

impl Quotas {
    /// How many accounts are counted, and for how long after they last asked.
    const ACCOUNTS_MAX: u64 = 50_000;
    const KEPT: Duration = Duration::from_secs(10);
    /// How often an account is counted for no other reason than that it is over its
    /// quota: what was released meanwhile may be had at once.
    const RECOUNTS: Quota = Quota::per_second(NonZeroU32::new(4).unwrap()).allow_burst(NonZeroU32::new(20).unwrap());
    /// How old a count may be by which it is refused beyond that.
    const FRESH: Duration = Duration::from_millis(250);
    /// How often it is counted for one request whose refusal is in doubt, since
    /// others are under way. Where a node is so slow that no count is fresh when it
    /// is there, counting once more would make it slower.
    const COUNTS_MAX: usize = 4;
    /// The part of its quota that an account may have in a shard before it is
    /// counted: were all of them full, it would be half of what it may have.
    const UNCOUNTED_PART: u64 = 2 * Shard::SPREAD as u64;
    const COUNT_INTERVAL: Duration = Duration::from_secs(1);
    /// How many accounts are counted by one script.
    const COUNTED_AT_ONCE: usize = 100;

    fn of(&self, account: AccountId) -> Arc<Known> {
        self.0.get_with(account, Arc::default)
    }

    /// The accounts that have asked since the last round.
    fn due(&self) -> Vec<AccountId> {
        let has_asked = |known: &Known| std::mem::take(&mut known.counts().has_asked);
        self.0.iter().filter(|(_, known)| has_asked(known)).map(|(account, _)| *account).collect()
    }
}

impl Locks {
    /// Asks for a lock in a cluster, see [`Locks::ask`]. Nobody is refused for what
    /// was counted a while ago.
    pub(super) async fn ask_spread(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<Answer<Turn>, LocksError> {
        let (shard, account, waits) = (self.shard_of(request), request.claimant.account, !wait.is_zero());
        let known = self.quotas.of(account);
        let allowed = || known.allowance(request, shard, waits);
        let mut allowance = allowed();
        if !allowance.is_sure {
            self.count_anew(account, &known, || allowed().is_sure).await;
            allowance = allowed();
        }
        let ask = async |request: &AcquireRequest| {
            let mut under_way = known.begin(shard, waits);
            let answer = self.ask_once(request, attempt, wait).await?;
            under_way.turn = Some(&answer.outcome);
            drop(under_way);
            Ok::<_, LocksError>(answer)
        };
        let mut answer = ask(&allowance.request).await?;
        let begun = Instant::now();
        for nth in 0..Quotas::COUNTS_MAX {
            if nth > 0 && begun.elapsed() > Quotas::FRESH {
                break;
            }
            let is_certain = || allowance.is_fresh && (nth > 0 || !known.may_recount());
            if !is_over_quota(&answer.outcome) || is_certain() {
                break;
            }
            self.count_anew(account, &known, || false).await;
            allowance = allowed();
            allowance.request.payment = Payment::Paid;
            answer.outcome = ask(&allowance.request).await?.outcome;
        }
        answer.outcome = allowance.in_all(answer.outcome);
        Ok(answer)
    }

    /// Collects a lock in a cluster, see [`Locks::collect`]. Whoever is over its
    /// quota loses its lock key, so there must be no doubt.
    pub(super) async fn collect_spread(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        is_over: bool,
    ) -> Result<Turn, LocksError> {
        let (shard, account) = (self.shard_of(request), request.claimant.account);
        let known = self.quotas.of(account);
        let allowed = || known.allowance(request, shard, false);
        let (mut allowance, begun) = (allowed(), Instant::now());
        for nth in 0..Quotas::COUNTS_MAX {
            let is_certain = allowance.is_fresh || allowance.is_ample;
            let is_enough = nth > 0 && (is_certain || begun.elapsed() > Quotas::FRESH);
            if is_enough || (is_certain && allowance.is_sure) {
                break;
            }
            self.count_anew(account, &known, || allowed().is_fresh).await;
            allowance = allowed();
        }
        let mut under_way = known.begin(shard, false);
        let turn = self.collect_once(&allowance.request, attempt, is_over).await?;
        under_way.turn = Some(&turn);
        drop(under_way);
        Ok(allowance.in_all(turn))
    }

    /// Counts what accounts have that ask for locks, for as long as it is polled.
    pub(super) async fn count_always(&self) {
        if !self.store.is_spread() {
            return std::future::pending().await;
        }
        let mut tick = interval(Quotas::COUNT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for accounts in self.quotas.due().chunks(Quotas::COUNTED_AT_ONCE) {
                self.count_all(accounts).await;
            }
        }
    }

    fn shard_of(&self, request: &AcquireRequest) -> Shard {
        self.store.shard_of(&request.lock.lock_key())
    }

    /// Counts what an account has, unless somebody else has begun to meanwhile:
    /// however many ask at once, they do not stand in line to count.
    async fn count_anew(&self, account: AccountId, known: &Known, is_done: impl Fn() -> bool) {
        let asked = Instant::now();
        let _turn = known.counting.lock().await;
        if !is_done() && !known.is_counted_since(asked) {
            self.count_all(&[account]).await;
        }
    }

    /// Counts what accounts have, in all shards at once. Where a shard cannot be
    /// asked what was counted before still counts: elsewhere locks are to be had.
    async fn count_all(&self, accounts: &[AccountId]) {
        let begun = Instant::now();
        let shards = self.store.shards().iter().filter(|shard| self.store.is_there(**shard));
        let counted = join_all(shards.map(async |shard| (*shard, self.count_in(*shard, accounts).await))).await;
        for (at, account) in accounts.iter().enumerate() {
            let of = |number: usize| {
                let counted = counted.iter().filter_map(|(shard, counted)| Some((*shard, counted.as_ref().ok()?)));
                counted.filter_map(move |(shard, counted)| Some((shard, *counted.get(2 * at + number)?)))
            };
            let known = self.quotas.of(*account);
            let mut counts = known.counts();
            counts.date(begun);
            counts.held.count(of(0));
            counts.waiting.count(of(1));
        }
    }

    /// How many locks each of these accounts holds in a shard, and with how many
    /// requests it waits, in turn.
    async fn count_in(&self, shard: Shard, accounts: &[AccountId]) -> Result<Vec<u64>, LocksError> {
        let keys = accounts.iter().flat_map(|account| {
            let account = account.to_string();
            [held_key(&self.store, shard, &account), waiting_key(&self.store, shard, &account)]
        });
        let keys: Vec<String> = keys.collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let reply = self.store.run(&COUNT, &keys, &[]).await?;
        (1..=keys.len()).map(|at| Ok(reply.word(at)?)).collect()
    }
}

fn is_over_quota(turn: &Turn) -> bool {
    matches!(turn, Turn::Over(AcquireOutcome::Refused(Refusal::OverQuota { .. } | Refusal::TooManyWaiting { .. })))
}
