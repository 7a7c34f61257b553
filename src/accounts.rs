//! Accounts, tokens, plans, namespaces and the audit log: the only room with
//! SQL. [`Database`] is for those who change them, [`Directory`] for those who
//! want to know whose a token is, thousands of times a second.

mod account;
mod audit;
mod audit_query;
mod cache;
mod cache_key;
mod cached_caller;
mod caller;
mod change;
mod change_feed;
mod database;
mod error;
mod journal;
mod lookup;
mod metrics;
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
mod token_cache;
mod usage;

pub use self::{
    account::{AccountInfo, NewAccount},
    audit::Recording,
    audit_query::{AuditFilter, AuditPage, AuditRow},
    caller::{Caller, LeaseOutOfRange, NamespaceDenied, Scopes},
    change::Actor,
    database::Database,
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
    token_cache::{Directory, FindError, Reach},
};
