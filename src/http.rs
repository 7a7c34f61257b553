//! HTTP: the router, the middleware, extractors, problems, one file a route.
//! Status codes are known here alone.

mod account;
mod acquire;
mod admin;
mod answer;
mod caller;
mod client_address;
mod connection;
mod count;
mod credentials;
mod cursor;
mod decode;
mod frame;
#[cfg(fuzzing)]
pub mod fuzz;
mod heartbeat;
mod json_object;
mod known;
mod list;
mod lock;
mod lock_path;
mod openapi;
mod origin;
mod params;
mod problem;
mod recheck;
mod release;
mod request_id;
mod router;
mod service;
mod shed;
mod stranger;
mod strict;
mod terraform;
mod trace;

pub use self::{
    admin::admin_router,
    client_address::{client_address, is_trusted},
    connection::Connection,
    cursor::{parse as parse_cursor, text as cursor_text},
    openapi::description,
    origin::{is_secure, origin},
    params::Body,
    problem::{Explained, Problem, explained_problems},
    router::{Api, not_found, service},
    service::Service,
};
