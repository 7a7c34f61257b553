//! `lockable acquire` and `hold`: locks that somebody releases later.

use std::{env, time::Duration};

use nix::unistd::{User, gethostname, getuid};

use super::{
    args::{HoldArgs, LockArgs, NameArgs, duration, note, owner},
    ask::{NoAnswer, Question, Said},
    failure::Failure,
    interrupt::Interrupts,
    progress,
};
use crate::{
    client::{BootTime, Client, Error, Grant, LockRequest, Refusal, clock},
    exit::Exit,
};

/// Acquire a lock, which the caller renews and releases.
#[derive(Debug, clap::Args)]
pub struct Acquire {
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    hold: HoldArgs,
    /// How long to wait for the lock [default: not at all]. With an owner the position in the queue is kept
    #[arg(short, long, env = "LOCKABLE_WAIT", value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,
}

/// Keep a lock for a while, as a person does during maintenance.
#[derive(Debug, clap::Args)]
pub struct Hold {
    #[command(flatten)]
    lock: NameArgs,
    /// The lock's holder [default: user@host]
    #[arg(long, env = "LOCKABLE_OWNER", value_parser = owner)]
    owner: Option<String>,
    /// For how long; the plan sets the longest time
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    time: Duration,
    /// Text shown to callers of the same account while the lock is held
    #[arg(long, env = "LOCKABLE_NOTE", value_parser = note)]
    note: Option<String>,
    /// How long to wait for the lock [default: not at all]
    #[arg(short, long, env = "LOCKABLE_WAIT", value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,
}

impl Question for Acquire {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer> {
        let request = self.hold.apply(self.lock.request()?);
        Ok(match acquire(client, &request, self.wait).await? {
            Ok(grant) => said("acquired", &request, grant),
            Err(refusal) => refused(&request, *refusal),
        })
    }
}

impl Question for Hold {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer> {
        let owner = self.owner.clone().unwrap_or_else(person);
        let hold = HoldArgs { lease: Some(self.time), note: self.note.clone() };
        let request = hold.apply(self.lock.request()?.owner(&owner)?);
        let acquired = acquire(client, &request, self.wait).await;
        let grant = match acquired {
            Ok(Ok(grant)) => grant,
            Ok(Err(refusal)) => return Ok(refused(&request, *refusal)),
            Err(NoAnswer::Error(Error::Problem(problem))) if problem.slug() == "lease-out-of-range" => {
                let advice = "lockable run keeps a lock for as long as a command runs";
                return Err(Failure::Usage(format!("{}; {advice}", problem.detail)).into());
            }
            Err(reason) => return Err(reason),
        };
        let namespace = self.lock.namespace.as_ref().map(|name| format!(" --namespace {name}")).unwrap_or_default();
        let (name, until) = (request.name(), clock(&grant.expires_at));
        let words = format!(
            "held {name} until {until} as {owner}\nrelease it with: lockable release {name} --owner {owner}{namespace}"
        );
        Ok(Said { words, ..said("held", &request, grant) })
    }
}

/// Acquires a lock, or leaves its queue and dies of the signal that ends the wait.
async fn acquire(
    client: &Client,
    request: &LockRequest,
    wait: Option<Duration>,
) -> Result<Result<Grant, Box<Refusal>>, NoAnswer> {
    let mut interrupts =
        Interrupts::listen().map_err(|error| Failure::Unavailable(format!("cannot listen to signals: {error}")))?;
    let until = BootTime::now() + wait.unwrap_or_default();
    let acquired = tokio::select! {
        acquired = progress::acquire(client, request, Some(until), false) => acquired,
        signal = interrupts.next() => {
            client.leave(request).await;
            return Err(Failure::Exit(Exit::Signal(signal)).into());
        }
    };
    match acquired {
        Ok(grant) => Ok(Ok(grant)),
        Err(progress::Ended::Failed(Error::NotAcquired(refusal))) => Ok(Err(refusal)),
        Err(progress::Ended::Failed(error)) => Err(error.into()),
        Err(progress::Ended::OwnLock) => Err(progress::own_lock(request.name()).into()),
    }
}

/// The answer for a grant. A new grant is released again if the answer cannot be printed.
fn said(done: &str, request: &LockRequest, grant: Grant) -> Said {
    let granted = (!grant.again).then(|| (request.clone(), grant.fencing_token));
    Said { granted, ..Said::granted(done, request, grant) }
}

fn refused(request: &LockRequest, refusal: Refusal) -> Said {
    Said::new(false, format!("{} {refusal}", request.name()), refusal.answer)
}

/// The person at this terminal, as far as the system knows.
fn person() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.or_else(|| User::from_uid(getuid()).ok()?.map(|user| user.name));
    let user = user.unwrap_or_else(|| getuid().to_string());
    let host = gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    format!("{user}@{host}").chars().filter(char::is_ascii_graphic).take(128).collect()
}
