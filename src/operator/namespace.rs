use clap::Subcommand;

use super::{Shown, Target, output::time};
use crate::accounts::{AccountsError, Actor, NamespaceInfo};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a private namespace
    Create {
        /// The e-mail address or id of its account
        #[arg(long)]
        account: String,
        /// Up to 63 lower-case letters, digits and inner hyphens
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the private namespaces of an account
    List {
        /// The e-mail address or id of the account
        #[arg(long)]
        account: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Command {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::Create { account, name, target } => {
                let (database, output) = target.open().await?;
                let made = database.create_namespace(Actor::Operator, &account, &name).await?;
                output.made(&made, &format!("made the namespace {name} for {account}"));
            }
            Self::List { account, target } => {
                let (database, output) = target.open().await?;
                output.list(&database.list_namespaces(&account).await?);
            }
        }
        Ok(())
    }
}

impl Shown for NamespaceInfo {
    const HEADINGS: &'static [&'static str] = &["name", "made", "id"];

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), time(Some(self.created_at)), self.id.clone()]
    }
}
