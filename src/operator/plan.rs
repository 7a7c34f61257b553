use clap::{ArgAction, Args, Subcommand};

use super::{CommonOptions, TableRow};
use crate::{
    accounts::{AccountsError, Plan, PlanChange},
    lock::{Lease, parse_duration_ms},
};

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// List all plans
    List {
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Change a plan; omitted values stay unchanged
    Set {
        plan: String,
        #[command(flatten)]
        limits: PlanOptions,
        #[command(flatten)]
        common: CommonOptions,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct PlanOptions {
    /// Requests per second of all tokens of an account together
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Requests that an account may send at once
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Default lease
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease_default: Option<Lease>,
    /// Shortest lease
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease_min: Option<Lease>,
    /// Longest lease
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease_max: Option<Lease>,
    /// Held locks per account
    #[arg(long, value_name = "N")]
    locks: Option<u64>,
    /// Queued requests per account
    #[arg(long, value_name = "N")]
    waiters: Option<u64>,
    /// Active tokens per account
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Whether accounts can create private namespaces
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    private_namespaces: Option<bool>,
}

impl PlanCommand {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::List { common } => {
                let (database, printer) = common.open().await?;
                printer.list(&database.list_plans().await?);
            }
            Self::Set { plan, limits, common } => {
                let (database, printer) = common.open().await?;
                let change = PlanChange {
                    per_second: limits.rate,
                    burst: limits.burst,
                    lease_default: limits.lease_default,
                    lease_min: limits.lease_min,
                    lease_max: limits.lease_max,
                    locks_max: limits.locks,
                    waiters_max: limits.waiters,
                    tokens_max: limits.tokens,
                    private_namespaces: limits.private_namespaces,
                };
                printer.show(&database.set_plan_limits(&plan, &change).await?);
            }
        }
        Ok(())
    }
}

impl TableRow for Plan {
    const HEADINGS: &'static [&'static str] =
        &["plan", "rate", "burst", "lease", "from", "to", "locks", "waiters", "tokens", "private namespaces"];

    fn row(&self) -> Vec<String> {
        let limits: [&dyn ToString; 10] = [
            &self.name,
            &self.rate.per_second,
            &self.rate.burst,
            &self.lease_default,
            &self.lease_min,
            &self.lease_max,
            &self.locks_max,
            &self.waiters_max,
            &self.tokens_max,
            &self.private_namespaces,
        ];
        limits.map(ToString::to_string).to_vec()
    }
}

fn lease(text: &str) -> Result<Lease, String> {
    parse_duration_ms(text).map(Lease::from_ms).map_err(|error| error.to_string())
}
