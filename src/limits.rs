//! Limits on the load that one client causes. Request rates of accounts, and rates of costly actions,
//! are counted across all servers; failed authentications, lookups and connections of client
//! addresses, in this server.

mod account_rate_limiter;
mod account_rates;
mod action_rates;
mod auth_failures;
mod in_flight;
mod per_key;
mod per_key_semaphore;

pub use self::{
    account_rate_limiter::AccountRateLimiter,
    account_rates::{AccountRates, Admission, RateClass},
    action_rates::{ActionRateLimiter, LimitedAction},
    auth_failures::{AuthFailureLimiter, Network},
    in_flight::InFlightLimit,
    per_key::{PerKeyLimit, PerKeyPermit},
    per_key_semaphore::{PerKeyAcquireError, PerKeySemaphore, PerKeySemaphorePermit},
};
