//! HTTP: the router, the middleware, extractors, problems, one file a route.
//! Status codes are known here alone.

mod account;
mod acquire;
mod admin;
mod answer;
mod basic;
mod caller;
mod client_address;
mod connection;
mod cursor;
mod decode;
mod docs;
mod frame;
#[cfg(fuzzing)]
pub mod fuzz;
mod heartbeat;
mod json_object;
mod list;
mod lock;
mod lock_path;
mod openapi;
mod params;
mod problem;
mod release;
mod router;
mod shed;
mod terraform;
mod trace;

pub use self::{admin::admin_router, connection::Connection, router::router};
