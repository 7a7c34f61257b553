//! Limits on the cost of one client: request rates of accounts and of costly actions, counted over
//! all pods, and failed authentications, lookups and connections of client addresses, counted in
//! this pod.

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
