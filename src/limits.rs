//! What one client may cost: the rate of each token, over all pods together,
//! failed authentications, lookups and connections of each client address, in this
//! pod, and what people try on the account page.

mod addresses;
mod attempts;
mod meter;
mod places;
mod shares;
mod tokens;
mod turns;

pub use self::{
    addresses::{Addresses, Network},
    attempts::{Attempt, Attempts},
    meter::Meter,
    places::Places,
    shares::{Share, Shares},
    tokens::{Admission, RateShare, Tokens},
    turns::{NoTurn, Turn, Turns},
};
