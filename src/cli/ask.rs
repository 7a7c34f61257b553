//! The commands for scripts: each asks the server once, prints one line or JSON,
//! and says yes or no by its exit code.

#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::{
    NO, YES,
    args::{HoldArgs, LockArgs, duration},
    plain,
    server::ServerArgs,
    waiting,
};
use crate::client::{Client, Error, Grant, LockRequest, Moment, NotHeld, Status, recovering};

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

/// Acquire a lock, which somebody has to renew and release then.
#[derive(Debug, clap::Args)]
pub struct Acquire {
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    hold: HoldArgs,
    /// How long to wait for the lock; not at all unless set. With an owner the place in the line is kept all the while
    #[arg(short, long, value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,
}

/// Renew the lease of a lock.
#[derive(Debug, clap::Args)]
pub struct Heartbeat {
    #[command(flatten)]
    lock: LockArgs,
    /// For how long; the account's own lease unless set
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    lease: Option<Duration>,
    /// Only if this is the grant's
    #[arg(long, value_name = "N")]
    fencing_token: Option<u64>,
}

/// Release a lock, or leave the line of those who wait for it.
#[derive(Debug, clap::Args)]
pub struct Release {
    #[command(flatten)]
    lock: LockArgs,
    /// Only if this is the grant's
    #[arg(long, value_name = "N")]
    fencing_token: Option<u64>,
}

/// Say who holds a lock: yes if somebody does.
#[derive(Debug, clap::Args)]
pub struct Stat {
    /// The lock
    name: String,
    /// The namespace of the lock; the token's own unless set
    #[arg(long)]
    namespace: Option<String>,
}

/// List the locks that the account holds.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only those whose names begin like this
    #[arg(default_value = "")]
    prefix: String,
    /// The namespace; the token's own unless set
    #[arg(long)]
    namespace: Option<String>,
}

/// Take a lock from whoever of the account holds it; recorded in the audit log.
#[derive(Debug, clap::Args)]
pub struct Break {
    /// The lock
    name: String,
    /// The namespace of the lock; the token's own unless set
    #[arg(long)]
    namespace: Option<String>,
}

/// What a command has to say: whether it is a yes, and that in words and in JSON.
pub struct Said {
    is_yes: bool,
    words: String,
    json: Value,
}

/// A question to the server.
#[expect(async_fn_in_trait, reason = "it is for the commands of this file alone")]
pub trait Question {
    async fn ask(&self, client: &Client) -> Result<Said, Error>;
}

impl<T: clap::Args + Question> Ask<T> {
    /// Asks, and prints what is said. Returns the exit code.
    ///
    /// # Errors
    /// When there is neither a yes nor a no, in words for the user.
    pub async fn answer(&self) -> Result<u8, String> {
        let client = self.server.client()?;
        let said = self.what.ask(&client).await.map_err(|error| error.to_string())?;
        if self.json {
            println!("{}", said.json);
        } else if !said.words.is_empty() {
            println!("{}", plain(&said.words));
        }
        Ok(if said.is_yes { YES } else { NO })
    }
}

impl Question for Acquire {
    async fn ask(&self, client: &Client) -> Result<Said, Error> {
        let request = self.hold.apply(self.lock.request()?);
        let until = Moment::now() + self.wait.unwrap_or_default();
        match waiting::acquire(client, &request, Some(until), false).await {
            Ok(grant) => Ok(granted("acquired", &request, grant)),
            Err(Error::NotAcquired(refusal)) => {
                let words = format!("{} {refusal}", request.name());
                Ok(Said { is_yes: false, words, json: refusal.answer })
            }
            Err(error) => Err(error),
        }
    }
}

impl Question for Heartbeat {
    async fn ask(&self, client: &Client) -> Result<Said, Error> {
        let mut request = self.lock.request()?;
        if let Some(lease) = self.lease {
            request = request.lease(lease);
        }
        Ok(match client.heartbeat(&request, self.fencing_token, HEARTBEAT_TIMEOUT).await? {
            Ok(grant) => granted("renewed", &request, grant),
            Err(reason) => refused(&request, reason),
        })
    }
}

impl Question for Release {
    async fn ask(&self, client: &Client) -> Result<Said, Error> {
        let request = self.lock.request()?;
        Ok(done("released", &request, client.release(&request, self.fencing_token).await?))
    }
}

impl Question for Break {
    async fn ask(&self, client: &Client) -> Result<Said, Error> {
        let request = lock_in(&self.name, self.namespace.as_deref())?;
        Ok(done("broken", &request, client.break_lock(&request).await?))
    }
}

impl Question for Stat {
    async fn ask(&self, client: &Client) -> Result<Said, Error> {
        let status = client.status(&lock_in(&self.name, self.namespace.as_deref())?).await?;
        Ok(Said { is_yes: status.held, words: in_words(&status), json: json!(status) })
    }
}

impl Question for List {
    async fn ask(&self, client: &Client) -> Result<Said, Error> {
        let (mut locks, mut cursor) = (Vec::new(), None);
        loop {
            let page = client.list(self.namespace.as_deref(), &self.prefix, cursor.as_deref()).await?;
            locks.extend(page.locks);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let lines =
            locks.iter().map(|lock| format!("{}\t{}\tuntil {}", lock.name, lock.holder, lock.holder.expires_at));
        Ok(Said { is_yes: !locks.is_empty(), words: lines.collect::<Vec<_>>().join("\n"), json: json!(locks) })
    }
}

fn lock_in(name: &str, namespace: Option<&str>) -> Result<LockRequest, Error> {
    let request = LockRequest::new(name)?;
    Ok(match namespace {
        Some(namespace) => request.namespace(namespace),
        None => request,
    })
}

fn granted(done: impl fmt::Display, request: &LockRequest, grant: Grant) -> Said {
    let (fence, expires_at) = (grant.fencing_token, &grant.expires_at);
    let words = format!("{done} {} until {expires_at}, fencing token {fence}", request.name());
    Said { is_yes: true, words, json: grant.answer }
}

fn refused(request: &LockRequest, reason: NotHeld) -> Said {
    let (words, reason) = match reason {
        NotHeld::Free => ("not held", "not_held"),
        NotHeld::ByAnother => ("held by another", "held_by_another"),
    };
    let words = format!("{} is {words}", request.name());
    Said { is_yes: false, words, json: json!({ "response": false, "name": request.name(), "reason": reason }) }
}

fn done(words: &str, request: &LockRequest, outcome: Result<(), NotHeld>) -> Said {
    match outcome {
        Ok(()) => Said {
            is_yes: true,
            words: format!("{words} {}", request.name()),
            json: json!({ "response": true, "name": request.name() }),
        },
        Err(reason) => refused(request, reason),
    }
}

fn in_words(status: &Status) -> String {
    let name = &status.name;
    let held = match (&status.holder, status.held) {
        (Some(holder), _) => format!("{name} is held by {holder}, until {}", holder.expires_at),
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
