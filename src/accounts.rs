//! Accounts, tokens, plans, namespaces and the audit log: the only room with
//! SQL. [`Database`] is for those who change them, [`Directory`] for those who
//! want to know whose a token is, thousands of times a second.

mod account;
mod audit;
mod cache;
mod cache_key;
mod caller;
mod change;
mod database;
mod directory;
mod error;
mod known;
mod ledger;
mod lookup;
mod measure;
mod namespace;
mod operator_request;
mod password;
mod plan;
mod private_file;
mod removal;
mod rotation;
mod secret;
mod session;
mod sign_up;
mod subscription;
mod token;
mod trail;
mod usage;
mod watch;

pub use self::{
    account::{AccountInfo, NewAccount},
    audit::Recording,
    caller::{Caller, LeaseOutOfRange, NamespaceDenied, Scopes},
    change::Actor,
    database::Database,
    directory::{Directory, FindError, Reach},
    error::AccountsError,
    namespace::NamespaceInfo,
    operator_request::{HolderInfo, NamedLock, OperatorAnswer, OperatorRequest, TakenRequest},
    password::{Password, PasswordError},
    plan::{Plan, PlanChange},
    secret::Secret,
    session::{Origin, Session, SessionInfo},
    sign_up::Link,
    subscription::Subscription,
    token::{NewToken, Token, TokenHash, TokenInfo, TokenRequest},
    trail::{AuditFilter, AuditPage, AuditRow},
};
