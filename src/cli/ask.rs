//! The commands for scripts: each asks the server once, prints one line or JSON,
//! and says yes or no by its exit code.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::{
    NO, YES,
    args::{LockArgs, NameArgs, duration, namespace},
    failure::Failure,
    plain, say,
    server::ServerArgs,
};
use crate::{
    client::{Client, Error, Grant, LockRequest, NotHeld, Status, clock, recovering},
    exit::{self, Exit},
};

/// How long a heartbeat may take.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(12);

/// A question, of whom it is asked, and how it is answered.
#[derive(Debug, clap::Args)]
pub struct Ask<T: clap::Args> {
    #[command(flatten)]
    what: T,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Renew the lease of a lock.
#[derive(Debug, clap::Args)]
pub struct Heartbeat {
    #[command(flatten)]
    lock: LockArgs,
    /// How long the lock is held from now on [default: the lease it was acquired with]
    #[arg(long, env = "LOCKABLE_LEASE", value_parser = duration, value_name = "DURATION")]
    lease: Option<Duration>,
    /// Renew only the grant with this fencing token
    #[arg(long, value_name = "N")]
    fencing_token: Option<u64>,
}

/// Release a lock, or leave its queue.
#[derive(Debug, clap::Args)]
pub struct Release {
    #[command(flatten)]
    lock: LockArgs,
    /// Release only the grant with this fencing token
    #[arg(long, value_name = "N")]
    fencing_token: Option<u64>,
}

/// Show who holds a lock: yes if somebody does.
#[derive(Debug, clap::Args)]
pub struct Stat {
    #[command(flatten)]
    lock: NameArgs,
}

/// List the locks that the account holds.
#[derive(Debug, clap::Args)]
pub struct List {
    /// List only locks whose names begin with this
    #[arg(default_value = "")]
    prefix: String,
    /// The namespace [default: the token's]
    #[arg(long, env = "LOCKABLE_NAMESPACE", value_parser = namespace)]
    namespace: Option<String>,
}

/// End a grant of the account; recorded in the audit log.
#[derive(Debug, clap::Args)]
pub struct Break {
    #[command(flatten)]
    lock: NameArgs,
}

/// An answer: whether it is a yes, and that in words and in JSON.
pub struct Said {
    pub is_yes: bool,
    pub words: String,
    pub json: Value,
    /// The lock and fencing token to release if the answer cannot be printed.
    pub granted: Option<(LockRequest, u64)>,
}

/// Why there is no answer.
pub enum NoAnswer {
    Error(Error),
    Failure(Failure),
}

impl From<Error> for NoAnswer {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// A question to the server.
#[expect(async_fn_in_trait, reason = "it is for the commands of this folder alone")]
pub trait Question {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer>;
}

impl<T: clap::Args + Question> Ask<T> {
    /// Asks, and prints the answer. A lock that was acquired is released again when its grant
    /// cannot be printed: the caller does not know that it holds the lock.
    ///
    /// # Errors
    /// When the server gave no answer, or the answer cannot be printed.
    pub(super) async fn answer(&self) -> Result<Exit, Failure> {
        let server = self.server.server()?;
        let client = server.client()?;
        let said = self.what.ask(&client).await.map_err(|reason| match reason {
            NoAnswer::Error(error) => server.failure(&error),
            NoAnswer::Failure(failure) => failure,
        })?;
        let text = match self.json {
            true => format!("{}\n", said.json),
            false if said.words.is_empty() => String::new(),
            false => format!("{}\n", plain(&said.words)),
        };
        if let Err(exit) = exit::print(&text) {
            if let Some((request, fence)) = &said.granted {
                let released = client.release(request, Some(*fence)).await;
                if released.is_err() {
                    say(&format!("{} is not released, its lease will lapse", request.name()));
                }
            }
            return Err(exit.into());
        }
        Ok(Exit::Code(if said.is_yes { YES } else { NO }))
    }
}

impl Question for Heartbeat {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer> {
        let mut request = self.lock.request()?;
        if let Some(lease) = self.lease {
            request = request.lease(lease);
        }
        Ok(match client.heartbeat(&request, self.fencing_token, HEARTBEAT_TIMEOUT).await? {
            Ok(grant) => Said::granted("renewed", &request, grant),
            Err(reason) => refused(&request, reason),
        })
    }
}

impl Question for Release {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer> {
        let request = self.lock.request()?;
        Ok(done("released", &request, client.release(&request, self.fencing_token).await?))
    }
}

impl Question for Break {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer> {
        let request = self.lock.request()?;
        Ok(done("broken", &request, client.break_lock(&request).await?))
    }
}

impl Question for Stat {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer> {
        let status = client.status(&self.lock.request()?).await?;
        Ok(Said::new(status.held, in_words(&status), json!(status)))
    }
}

impl Question for List {
    async fn ask(&self, client: &Client) -> Result<Said, NoAnswer> {
        let (mut locks, mut cursor) = (Vec::new(), None);
        loop {
            let page = client.list(self.namespace.as_deref(), &self.prefix, cursor.as_deref()).await?;
            locks.extend(page.locks);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let lines = locks
            .iter()
            .map(|lock| format!("{}\t{}\tuntil {}", lock.name, lock.holder, clock(&lock.holder.expires_at)));
        Ok(Said::new(true, lines.collect::<Vec<_>>().join("\n"), json!(locks)))
    }
}

impl Said {
    pub fn new(is_yes: bool, words: String, json: Value) -> Self {
        Self { is_yes, words, json, granted: None }
    }

    pub fn granted(done: impl fmt::Display, request: &LockRequest, grant: Grant) -> Self {
        let (fence, until) = (grant.fencing_token, clock(&grant.expires_at));
        let again = if grant.again { "; this owner held it already" } else { "" };
        let words = format!("{done} {} until {until}, fencing token {fence}{again}", request.name());
        Self::new(true, words, grant.answer)
    }
}

fn refused(request: &LockRequest, reason: NotHeld) -> Said {
    let (words, reason) = match reason {
        NotHeld::Free => ("not held", "not_held"),
        NotHeld::ByAnother => ("held by another owner", "held_by_another"),
    };
    let words = format!("{} is {words}", request.name());
    Said::new(false, words, json!({ "response": false, "name": request.name(), "reason": reason }))
}

fn done(words: &str, request: &LockRequest, outcome: Result<(), NotHeld>) -> Said {
    match outcome {
        Ok(()) => {
            let words = format!("{words} {}", request.name());
            Said::new(true, words, json!({ "response": true, "name": request.name() }))
        }
        Err(reason) => refused(request, reason),
    }
}

fn in_words(status: &Status) -> String {
    let name = &status.name;
    let held = match (&status.holder, status.held) {
        (Some(holder), _) => format!("{name} is held by {holder}, until {}", clock(&holder.expires_at)),
        (None, true) => format!("{name} is held by another account"),
        (None, false) => match &status.recovering_until {
            Some(until) => format!("{name} {}", recovering(until)),
            None => format!("{name} is free"),
        },
    };
    match status.waiting {
        0 => held,
        waiting => format!("{held}; {waiting} waiting"),
    }
}
