//! What one client may cost: the rate of each token, over all pods together,
//! and failed authentications and connections of each client address, in this
//! pod.

mod addresses;
mod meter;
mod neighbours;
mod tokens;

pub use self::{
    addresses::Addresses,
    neighbours::{Neighbour, Neighbours},
    tokens::{Admission, Permit, Tokens},
};
