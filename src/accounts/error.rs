use std::time::Duration;

use super::PasswordError;
use crate::lock::{Lease, NamespaceError};

/// Why an operation on accounts failed.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    #[error("there is no {what} {name:?}")]
    NotFound { what: &'static str, name: String },
    #[error("there is already {what} {name:?}")]
    Exists { what: &'static str, name: String },
    #[error("{0:?} is not a valid e-mail address")]
    Email(String),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("the plan {plan:?} allows leases from {min} to {max}, not {lease}")]
    Lease { plan: String, min: Lease, max: Lease, lease: Lease },
    #[error("the plan {0:?} has no private namespaces")]
    NoPrivateNamespaces(String),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error("an account has at most {max} {what}")]
    TooMany { what: &'static str, max: u64 },
    #[error("the plan {plan:?} allows {max} active tokens; revoke an unused one")]
    TooManyTokens { plan: String, max: u64 },
    #[error(
        "{max} rotated tokens of the account are still valid; revoke this one now, or rotate it when they have expired"
    )]
    TooManyExpiring { max: u64 },
    #[error("namespace {namespace:?} is the default of {tokens} tokens; revoke them first")]
    InUse { namespace: String, tokens: u64 },
    #[error("no server of this database answered within {} s; check that a server is running", .0.as_secs())]
    NoServer(Duration),
    #[error("the server failed to execute the command: {0}")]
    Server(String),
    #[error("the session has ended; sign in again")]
    SessionEnded,
    #[error("the account is suspended")]
    Suspended,
    #[error("a plan cannot have {0}")]
    Plan(String),
    #[error("the database schema has version {is}, but version {needed} is required; run lockable migrate")]
    NotMigrated { is: i64, needed: i64 },
    #[error("cannot reach the database {0}")]
    Unreachable(String),
    #[error("cannot open the database {0}: {1}")]
    NotOpened(String, sqlx::Error),
    #[error("the database timed out")]
    TooSlow,
    #[error("a database in memory does not persist; set a file, such as sqlite:lockable.db")]
    InMemory,
    #[error("database error: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("cannot migrate the database: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("LOCKABLE_DATABASE_URL has an unknown parameter; encode & in a password as %26; known parameters: {0}")]
    Parameter(String),
    #[error("the database URL begins with {0}:; use sqlite: or postgres:")]
    Scheme(String),
    #[error("the database contains invalid data: {0}")]
    Corrupt(&'static str),
}
