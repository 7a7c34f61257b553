use clap::{Subcommand, ValueEnum};

use super::{CommonOptions, TableRow, account::label, output::time};
use crate::{
    accounts::{AccountsError, Actor, Scopes, TokenInfo, TokenRequest},
    lock::{Label, Namespace},
};

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Create a token, which is printed only once
    Create {
        /// E-mail address or id of the account
        #[arg(long)]
        account: String,
        /// Label of the token
        #[arg(long, default_value = "token", value_parser = label)]
        label: Label,
        /// Scope of the token; repeatable
        #[arg(long = "scope", value_enum, default_values_t = [Scope::Lock])]
        scopes: Vec<Scope>,
        /// Default namespace of the token's locks
        #[arg(long, default_value = Namespace::PUBLIC)]
        namespace: String,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// List the tokens of an account
    List {
        /// E-mail address or id of the account
        #[arg(long)]
        account: String,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Revoke a token
    Revoke {
        /// Id of the token, see `lockable token list`
        id: String,
        #[command(flatten)]
        common: CommonOptions,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Acquire, heartbeat and release locks
    Lock,
    /// Manage the account
    Manage,
}

impl TokenCommand {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::Create { account, label, scopes, namespace, common } => {
                let (database, printer) = common.open().await?;
                let scopes = Scopes { lock: scopes.contains(&Scope::Lock), manage: scopes.contains(&Scope::Manage) };
                let created = database
                    .create_token(Actor::Operator, &account, &TokenRequest { label, scopes, namespace })
                    .await?;
                let token = created.token.reveal();
                let item = serde_json::json!({ "id": created.id, "token": token });
                printer.created(
                    &item,
                    &format!("Created a token for {account}, which is shown only once:\n\n    {token}\n"),
                );
            }
            Self::List { account, common } => {
                let (database, printer) = common.open().await?;
                printer.list(&database.list_tokens(&account).await?);
            }
            Self::Revoke { id, common } => {
                let (database, printer) = common.open().await?;
                database.revoke_token(Actor::Operator, None, &id).await?;
                printer.done(&format!("revoked token {id}"));
            }
        }
        Ok(())
    }
}

impl TableRow for TokenInfo {
    const HEADINGS: &'static [&'static str] =
        &["id", "label", "scopes", "namespace", "created", "last used", "revoked"];

    fn row(&self) -> Vec<String> {
        let scopes = [(self.scopes.lock, "lock"), (self.scopes.manage, "manage")];
        let scopes: Vec<_> = scopes.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
        let times = [Some(self.created_at), self.last_used_at, self.revoked_at].map(time);
        let texts = [self.id.clone(), self.label.clone(), scopes.join(","), self.namespace.clone()];
        texts.into_iter().chain(times).collect()
    }
}
