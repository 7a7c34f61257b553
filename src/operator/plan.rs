use clap::{ArgAction, Args, Subcommand};

use super::{Shown, Target};
use crate::{
    accounts::{AccountsError, Plan, PlanChange},
    lock::{Lease, parse_duration_ms},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List plans and their figures
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Change figures of a plan; those that are not named stay
    Set {
        plan: String,
        #[command(flatten)]
        figures: Figures,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Figures {
    /// Requests a second, per token
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Requests at once, per token
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// The lease of those who ask for none
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease_default: Option<Lease>,
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease_min: Option<Lease>,
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease_max: Option<Lease>,
    /// Locks held at once, per account
    #[arg(long, value_name = "N")]
    locks: Option<u64>,
    /// Requests waiting at once, per account
    #[arg(long, value_name = "N")]
    waiters: Option<u64>,
    /// Live tokens, per account
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Whether accounts may have namespaces of their own
    #[arg(long, value_name = "true|false", action = ArgAction::Set)]
    private_namespaces: Option<bool>,
}

impl Command {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::List { target } => {
                let (database, output) = target.open().await?;
                output.list(&database.list_plans().await?);
            }
            Self::Set { plan, figures, target } => {
                let (database, output) = target.open().await?;
                let change = PlanChange {
                    per_second: figures.rate,
                    burst: figures.burst,
                    lease_default: figures.lease_default,
                    lease_min: figures.lease_min,
                    lease_max: figures.lease_max,
                    locks_max: figures.locks,
                    waiters_max: figures.waiters,
                    tokens_max: figures.tokens,
                    private_namespaces: figures.private_namespaces,
                };
                output.show(&database.set_plan_figures(&plan, &change).await?);
            }
        }
        Ok(())
    }
}

impl Shown for Plan {
    const HEADINGS: &'static [&'static str] =
        &["plan", "rate", "burst", "lease", "from", "to", "locks", "waiters", "tokens", "private namespaces"];

    fn row(&self) -> Vec<String> {
        let figures: [&dyn ToString; 10] = [
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
        figures.map(ToString::to_string).to_vec()
    }
}

fn lease(text: &str) -> Result<Lease, String> {
    parse_duration_ms(text).map(Lease::from_ms).map_err(|error| error.to_string())
}
