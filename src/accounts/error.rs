use std::time::Duration;

use super::PasswordError;
use crate::lock::{Lease, NamespaceError};

/// Why something about accounts was not done.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    #[error("there is no {what} {name:?}")]
    NotFound { what: &'static str, name: String },
    #[error("there is already {what} {name:?}")]
    Exists { what: &'static str, name: String },
    #[error("{0:?} is no e-mail address")]
    Email(String),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("plan {plan:?} has leases from {min} to {max}, not {lease}")]
    Lease { plan: String, min: Lease, max: Lease, lease: Lease },
    #[error("plan {0:?} has no private namespaces")]
    NoPrivateNamespaces(String),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error("an account has at most {max} {what}")]
    TooMany { what: &'static str, max: u64 },
    #[error("plan {plan:?} allows {max} live tokens; revoke one that is not needed any more")]
    TooManyTokens { plan: String, max: u64 },
    #[error("{max} tokens of the account end within the hour already; rotate this one at once, or later")]
    TooManyEnding { max: u64 },
    #[error("{tokens} tokens have their locks in {namespace:?}; revoke them first")]
    InUse { namespace: String, tokens: u64 },
    #[error("no server on this database has answered within {} s", .0.as_secs())]
    NoServer(Duration),
    #[error("a server could not do it: {0}")]
    Server(String),
    #[error("the session has ended; sign in again")]
    SessionEnded,
    #[error("the account is suspended")]
    Suspended,
    #[error("a plan cannot have {0}")]
    Plan(String),
    #[error("the database is at version {is}, and {needed} is needed; run lockable migrate")]
    NotMigrated { is: i64, needed: i64 },
    #[error("the database {0} cannot be reached")]
    Unreachable(String),
    #[error("the database {0} cannot be opened: {1}")]
    NotOpened(String, sqlx::Error),
    #[error("the database took too long")]
    TooSlow,
    #[error("a database in memory is not kept; name a file, as in sqlite:lockable.db")]
    InMemory,
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the database cannot be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("LOCKABLE_DATABASE_URL has an unknown parameter; write & in a password as %26; there are {0}")]
    Parameter(String),
    #[error("the address of the database begins with {0}:, where sqlite: or postgres: is expected")]
    Scheme(String),
    #[error("the database holds what it should not: {0}")]
    Corrupt(&'static str),
}
