use clap::Subcommand;

use super::{CommonOptions, TableRow, output::time};
use crate::accounts::{AccountsError, Actor, NamespaceInfo};

#[derive(Debug, Subcommand)]
pub enum NamespaceCommand {
    /// Create a private namespace
    Create {
        /// E-mail address or id of the account
        #[arg(long)]
        account: String,
        /// Up to 63 lower-case letters, digits and inner hyphens
        name: String,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// List the private namespaces of an account
    List {
        /// E-mail address or id of the account
        #[arg(long)]
        account: String,
        #[command(flatten)]
        common: CommonOptions,
    },
}

impl NamespaceCommand {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::Create { account, name, common } => {
                let (database, printer) = common.open().await?;
                let created = database.create_namespace(Actor::Operator, &account, &name).await?;
                printer.created(&created, &format!("created the namespace {name} for {account}"));
            }
            Self::List { account, common } => {
                let (database, printer) = common.open().await?;
                printer.list(&database.list_namespaces(&account).await?);
            }
        }
        Ok(())
    }
}

impl TableRow for NamespaceInfo {
    const HEADINGS: &'static [&'static str] = &["name", "created", "id"];

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), time(Some(self.created_at)), self.id.clone()]
    }
}
