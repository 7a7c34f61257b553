//! All tests through the front door, in one binary.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a test says what is wrong by panicking"
)]

mod accounts;
mod ask;
mod auth;
mod balancer;
mod browser;
mod ci;
mod connections;
mod contention;
mod contract;
mod defaults;
mod embedded;
mod faults;
mod fencing;
mod hot_path;
mod inputs;
mod lab;
mod late;
mod late_requests;
mod layers;
mod layout;
mod login;
mod looking;
mod memory;
mod model;
mod monitoring;
mod openapi;
mod operation;
mod operator;
mod outage;
mod pages;
mod queue;
mod rates;
mod recovery;
mod redis;
mod revocation;
mod rolling;
mod run;
mod secrets;
mod seed;
mod settings;
mod shedding;
mod spread;
mod strangers;
mod support;
mod systemd;
mod tenants;
mod terminal;
mod terraform;
mod tls;
mod traces;
mod usage;
