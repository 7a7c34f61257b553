//! The queue of a lock: requests that wait, in order.

mod claim;
pub(super) mod registry;
mod view;
mod wait;
mod watch;

pub use self::{
    claim::Reverted,
    view::{Waiter, WaiterList},
    wait::UnconfirmedOutcome,
    watch::QueueState,
};
