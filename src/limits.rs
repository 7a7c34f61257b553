//! What one client may cost: the rate of each token, over all pods together,
//! and failed authentications of each client address, in this pod.

mod addresses;
mod meter;
mod tokens;

pub use self::{
    addresses::Addresses,
    tokens::{Admission, Permit, Tokens},
};
