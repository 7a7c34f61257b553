//! Lockable: `flock` for distributed systems, over plain HTTPS.
//!
//! # Layout
//!
//! - [`config`][]: every setting, with its variable, default and unit.
//! - [`telemetry`][]: logs and metrics.
//! - [`server`][]: listener, TLS, time-outs, drain.
//! - [`app`][]: what handlers share.
//! - [`lock`][]: the domain, pure: names, leases, fences, grants, outcomes.
//! - [`store`][]: where scripts run: Redis, or embedded in the process.
//! - [`locks`][]: the service: one function per operation, each one script call.
//! - [`accounts`][]: accounts, tokens, plans, namespaces, audit; the only room with SQL.
//! - [`limits`][]: rates per token, in the pod and over all pods; failed authentication per address.
//! - [`http`][]: the router, the middleware, extractors, problems, one file a route.
//! - [`web`][]: the pages: documents and the account page, their templates.
//! - [`boot_time`][]: a clock that nobody can set.
//! - [`mends`][]: which mends of the safety protocol are in force.
//! - [`exit`][]: how a process ends, and its standard output.
//! - [`client`][]: the client of a server, for the commands and for Rust programs.
//! - [`cli`][]: the commands that ask a server.
//! - [`operator`][]: the operator's commands, which work on the account database.
//!
//! The scripts that decide about locks stand in `lua/`, one file per operation.

pub mod accounts;
pub mod app;
pub mod boot_time;
pub mod cli;
pub mod client;
pub mod config;
pub mod exit;
pub mod http;
pub mod limits;
pub mod lock;
pub mod locks;
pub mod mends;
pub mod operator;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod web;
