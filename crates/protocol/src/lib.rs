//! The terms of the Lockable API that server, client and command line share: names, owners,
//! durations, fencing tokens, and the rules that they follow. Pure: no I/O, no HTTP, no storage.

mod duration;
mod fence;
mod name;
mod namespace;
mod text;
mod texts;

pub use self::{
    duration::{DURATION_MS_MAX, DurationError, Lease, parse_duration_ms},
    fence::{FencingToken, FencingTokenError},
    name::{LockName, NameError},
    namespace::{NAMESPACE_BYTES_MAX, NamespaceError, PUBLIC_NAMESPACE, check_namespace_name},
    text::{is_invisible, is_unprintable},
    texts::{Info, Label, Note, Owner, TextError},
};
