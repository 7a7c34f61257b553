use std::collections::HashMap;

use jiff::Timestamp;

use crate::locks::{
    LockKey, Locks, LocksError,
    grant_codec::read_time,
    keys::{activity_key, history_index_key, history_key},
    requests::script,
};
use crate::{
    lock::{AccountId, FencingToken},
    store::{BadReply, Reply, Script},
};

static READ_HISTORY: Script = script!("read_history");
static READ_ACTIVITY: Script = script!("read_activity");

/// Granted, refused and rate-limited requests of an account in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivityCounts {
    pub acquired: u32,
    pub refused: u32,
    pub limited: u32,
}

/// How a grant ended before its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantEnd {
    Released,
    Broken,
    /// Its answer was lost, and the server reverted it.
    Reverted,
}

/// A grant in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastGrant {
    pub fence: FencingToken,
    pub acquired_at: Timestamp,
    pub ended: Option<(Timestamp, GrantEnd)>,
    /// Empty for none.
    pub owner: String,
    pub label: String,
    pub note: String,
}

/// The history of a lock, newest grant first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub grants: Vec<PastGrant>,
    /// When events of the account were last dropped.
    pub gap: Option<Timestamp>,
}

impl GrantEnd {
    const ALL: [(Self, &str); 3] =
        [(Self::Released, "released"), (Self::Broken, "broken"), (Self::Reverted, "taken_back")];

    pub(in crate::locks) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(end, _)| *end == self).map_or("", |(_, text)| text)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == text).map(|(end, _)| *end)
    }
}

impl Locks {
    /// Reads the history of a lock.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn history(&self, account: AccountId, lock: &LockKey) -> Result<History, LocksError> {
        let account = account.to_string();
        let keys = [&*history_key(&self.store, &account), &history_index_key(&self.store, &account)];
        let reply = self.store.eval(&READ_HISTORY, &keys, &[&lock.to_string()]).await?;
        let grants = reply.text(1)?.split('\u{1e}').filter(|grant| !grant.is_empty());
        let mut grants: Vec<PastGrant> =
            grants.map(|grant| PastGrant::read(grant, &reply)).collect::<Result<_, _>>()?;
        grants.sort_by_key(|grant| std::cmp::Reverse(grant.fence));
        let gap = Some(reply.text(2)?).filter(|ms| !ms.is_empty()).map(|_| read_time(&reply, 2));
        Ok(History { grants, gap: gap.transpose()? })
    }

    /// Reads the activity of an account in each minute of the last hour, oldest first.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn activity(&self, account: AccountId) -> Result<Vec<ActivityCounts>, LocksError> {
        let key = activity_key(&self.store, &account.to_string());
        let reply = self.store.eval(&READ_ACTIVITY, &[&key], &[]).await?;
        let now: u64 = reply.word(1)?;
        let mut minutes = HashMap::new();
        for text in reply.texts(2).filter(|text| !text.is_empty()) {
            let numbers: Vec<u64> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
            let [minute, acquired, refused, limited] = numbers[..] else { return Err(reply.bad().into()) };
            let [acquired, refused, limited] = [acquired, refused, limited].map(|count| count as u32);
            minutes.insert(minute, ActivityCounts { acquired, refused, limited });
        }
        Ok((0..60).rev().map(|ago| minutes.get(&now.saturating_sub(ago)).copied().unwrap_or_default()).collect())
    }
}

impl PastGrant {
    fn read(grant: &str, reply: &Reply) -> Result<Self, BadReply> {
        let lines: Vec<&str> = grant.splitn(7, '\n').collect();
        let [fence, acquired_ms, ended_ms, how, owner, label, note] = lines[..] else { return Err(reply.bad()) };
        let time = |ms: &str| Timestamp::from_millisecond(ms.parse().ok()?).ok();
        let parsed = || {
            Some(Self {
                fence: fence.parse().ok()?,
                acquired_at: time(acquired_ms)?,
                ended: if ended_ms.is_empty() { None } else { Some((time(ended_ms)?, GrantEnd::parse(how)?)) },
                owner: owner.to_owned(),
                label: label.to_owned(),
                note: note.to_owned(),
            })
        };
        parsed().ok_or_else(|| reply.bad())
    }
}
