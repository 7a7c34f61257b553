//! What one client may cost: the rate of each account, over all pods together,
//! failed authentications, lookups and connections of each client address, in this
//! pod, and what people try on the account page.

mod auth_failures;
mod in_flight;
mod login_attempts;
mod per_key;
mod per_key_semaphore;
mod token_limiter;
mod token_rates;

pub use self::{
    auth_failures::{Addresses, Network},
    in_flight::Places,
    login_attempts::{Attempt, Attempts},
    per_key::{Share, Shares},
    per_key_semaphore::{NoTurn, Turn, Turns},
    token_limiter::Meter,
    token_rates::{Admission, RateShare, Rates},
};
