//! Lockable: `flock` for distributed systems, over plain HTTPS.
//!
//! # Layout
//!
//! - [`config`][]: all settings with their environment variables, defaults and units.
//! - [`telemetry`][]: logs, metrics and traces.
//! - [`server`][]: listener, TLS, timeouts, graceful shutdown.
//! - [`app`][]: state and operations that the API and the pages share.
//! - [`lock`][]: the domain types, without I/O: names, leases, fencing tokens, grants, outcomes.
//! - [`store`][]: runs Lua scripts in Redis or in the embedded store.
//! - [`locks`][]: the lock service: acquire, heartbeat, release, queue, recovery, history.
//! - [`accounts`][]: accounts, tokens, plans, namespaces and the audit log; the only module with
//!   SQL.
//! - [`limits`][]: request rates per account, failed authentications per address, requests in flight.
//! - [`http`][]: the HTTP API: router, middleware, extractors, problem details, one file per route.
//! - [`web`][]: the documentation pages and the account page, with their templates.
//! - [`safeguards`][]: switches for parts of the safety protocol, for the simulation's self-test.
//! - [`operator`][]: the operator's commands, which use the account database.
//!
//! The Lua scripts in `lua/` decide on locks, one file per operation.

pub mod accounts;
pub mod app;
pub mod config;
pub mod http;
pub mod limits;
pub mod lock;
pub mod locks;
pub mod operator;
pub mod safeguards;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod web;
