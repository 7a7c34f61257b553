use std::collections::HashMap;

use jiff::Timestamp;

use crate::locks::{
    LockId, Locks, LocksError,
    grant_codec::read_time,
    keys::{activity_key, history_key, recorded_key},
    requests::script,
};
use crate::{
    lock::{AccountId, FencingToken},
    store::{BadReply, Reply, Script},
};

static HISTORY: Script = script!("read_history");
static ACTIVITY: Script = script!("read_activity");

/// How often an account was granted a lock, refused one, and over its rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acquired: u32,
    pub refused: u32,
    pub limited: u32,
}

/// How a grant ended of which somebody saw the end. What lapses has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Released,
    Broken,
    /// Its answer was lost, and it was taken back.
    TakenBack,
}

/// A grant that is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    pub fence: FencingToken,
    pub acquired_at: Timestamp,
    pub ended: Option<(Timestamp, Ending)>,
    /// Empty for none.
    pub owner: String,
    pub label: String,
    pub note: String,
}

/// What is on record of a lock, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub grants: Vec<Past>,
    /// When something of the account was left out last.
    pub gap: Option<Timestamp>,
}

impl Ending {
    const ALL: [(Self, &str); 3] =
        [(Self::Released, "released"), (Self::Broken, "broken"), (Self::TakenBack, "taken_back")];

    pub(in crate::locks) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(ending, _)| *ending == self).map_or("", |(_, word)| word)
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == word).map(|(ending, _)| *ending)
    }
}

impl Locks {
    /// What is on record of a lock.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn history(&self, account: AccountId, lock: &LockId) -> Result<History, LocksError> {
        let account = account.to_string();
        let keys = [&*history_key(&self.store, &account), &recorded_key(&self.store, &account)];
        let reply = self.store.run(&HISTORY, &keys, &[&lock.to_string()]).await?;
        let grants = reply.text(1)?.split('\u{1e}').filter(|grant| !grant.is_empty());
        let mut grants: Vec<Past> = grants.map(|grant| Past::read(grant, &reply)).collect::<Result<_, _>>()?;
        grants.sort_by_key(|grant| std::cmp::Reverse(grant.fence));
        let gap = Some(reply.text(2)?).filter(|ms| !ms.is_empty()).map(|_| read_time(&reply, 2));
        Ok(History { grants, gap: gap.transpose()? })
    }

    /// What an account did in each minute of the last hour, the oldest first.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn activity(&self, account: AccountId) -> Result<Vec<Counts>, LocksError> {
        let key = activity_key(&self.store, &account.to_string());
        let reply = self.store.run(&ACTIVITY, &[&key], &[]).await?;
        let now: u64 = reply.word(1)?;
        let mut minutes = HashMap::new();
        for text in reply.texts(2).filter(|text| !text.is_empty()) {
            let numbers: Vec<u64> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
            let [minute, acquired, refused, limited] = numbers[..] else { return Err(reply.bad().into()) };
            let [acquired, refused, limited] = [acquired, refused, limited].map(|count| count as u32);
            minutes.insert(minute, Counts { acquired, refused, limited });
        }
        Ok((0..60).rev().map(|ago| minutes.get(&now.saturating_sub(ago)).copied().unwrap_or_default()).collect())
    }
}

impl Past {
    fn read(grant: &str, reply: &Reply) -> Result<Self, BadReply> {
        let lines: Vec<&str> = grant.splitn(7, '\n').collect();
        let [fence, acquired_ms, ended_ms, how, owner, label, note] = lines[..] else { return Err(reply.bad()) };
        let time = |ms: &str| Timestamp::from_millisecond(ms.parse().ok()?).ok();
        let parsed = || {
            Some(Self {
                fence: fence.parse().ok()?,
                acquired_at: time(acquired_ms)?,
                ended: if ended_ms.is_empty() { None } else { Some((time(ended_ms)?, Ending::parse(how)?)) },
                owner: owner.to_owned(),
                label: label.to_owned(),
                note: note.to_owned(),
            })
        };
        parsed().ok_or_else(|| reply.bad())
    }
}
