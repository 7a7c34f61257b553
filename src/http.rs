//! HTTP: the router, the middleware, extractors, problems, one file a route.
//! Status codes are known here alone.

mod acquire;
mod answer;
mod basic;
mod caller;
mod client_address;
mod decode;
mod frame;
mod heartbeat;
mod json_object;
mod lock_path;
mod params;
mod problem;
mod release;
mod router;

pub use router::router;
