//! Accounts, tokens, plans, namespaces and the audit log: the only module with SQL. [`Database`]
//! reads and changes them; [`TokenCache`] resolves tokens, thousands of times per second.

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
    audit::PendingAuditRow,
    audit_query::{AuditFilter, AuditRow, AuditRows},
    caller::{Caller, LeaseOutOfRange, NamespaceDenied, Scopes},
    change::Actor,
    database::Database,
    error::AccountsError,
    namespace::NamespaceInfo,
    operator_request::{ClaimedRequest, HolderInfo, NamedLock, OperatorAnswer, OperatorRequest},
    password::{Password, PasswordError},
    plan::{Plan, PlanChange},
    secret::Secret,
    session::{Origin, Session, SessionInfo},
    sign_up::SignUpLink,
    subscription::Subscription,
    token::{NewToken, Token, TokenHash, TokenInfo, TokenRequest},
    token_cache::{LookupDepth, TokenCache, TokenLookupError},
};
