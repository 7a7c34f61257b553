//! Integration tests against the public interfaces, in one binary.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a failed test panics with the reason"
)]

mod accounts;
mod ambiguous_input;
mod auth;
mod balancer;
mod browser;
mod chaos_selftest;
mod ci;
mod commands;
mod connections;
mod contention;
mod contract;
mod deadlines;
mod defaults;
mod documented_api;
mod embedded;
mod faults;
mod fencing;
mod health_and_metrics;
mod hot_path;
mod inspect;
mod late_requests;
mod layers;
mod layout;
mod load_shedding;
mod login;
mod memory;
mod model;
mod monitoring;
mod openapi;
mod operator_commands;
mod pages;
mod queue;
mod rates;
mod recovery;
mod redis;
mod redis_outage;
mod revocation;
mod rolling_update;
mod run;
mod secrets;
mod settings;
mod sharding;
mod support;
mod systemd;
mod tenants;
mod terminal;
mod terraform;
mod tls;
mod token_lookup;
mod traces;
mod usage;
