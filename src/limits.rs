//! What one client may cost: the rate of each account, over all pods together,
//! failed authentications, lookups and connections of each client address, in this
//! pod, and what people try on the account page.

mod addresses;
mod attempts;
mod meter;
mod places;
mod rates;
mod shares;
mod turns;

pub use self::{
    addresses::{Addresses, Network},
    attempts::{Attempt, Attempts},
    meter::Meter,
    places::Places,
    rates::{Admission, RateShare, Rates},
    shares::{Share, Shares},
    turns::{NoTurn, Turn, Turns},
};
