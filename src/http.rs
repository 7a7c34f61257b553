//! The HTTP API: router, middleware, extractors, problems, and one file per route. No other module of
//! the API knows status codes.

mod account;
mod acquire;
mod admin;
mod caller;
mod client_address;
mod connection;
mod connection_cache;
mod count;
mod credentials;
mod cursor;
mod decode;
#[cfg(fuzzing)]
pub mod fuzz;
mod heartbeat;
mod json_object;
mod list;
mod load_shed;
mod lock;
mod lock_path;
mod openapi;
mod origin;
mod params;
mod problem;
mod recheck;
mod release;
mod request_context;
mod request_id;
mod responses;
mod router;
mod service;
mod strict;
mod terraform;
mod token_lookup;
mod trace;

pub use self::{
    admin::admin_router,
    client_address::{client_address, is_trusted},
    connection::Connection,
    cursor::{parse as parse_cursor, text as cursor_text},
    openapi::description,
    origin::{is_secure, origin},
    params::Body,
    problem::{Problem, ProblemExplanation, problem_explanations},
    router::{Api, not_found, service},
    service::Service,
};
