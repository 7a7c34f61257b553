use clap::{Subcommand, ValueEnum};

use super::{Shown, Target, account::label, output::time};
use crate::{
    accounts::{AccountsError, Actor, Scopes, TokenInfo, TokenRequest},
    lock::{Label, Namespace},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token, which is printed this once
    Create {
        /// The e-mail address or id of its account
        #[arg(long)]
        account: String,
        /// What it is called
        #[arg(long, default_value = "token", value_parser = label)]
        label: Label,
        /// What it may be used for; may be given twice
        #[arg(long = "scope", value_enum, default_values_t = [Scope::Lock])]
        scopes: Vec<Scope>,
        /// Where its locks are unless a request says otherwise
        #[arg(long, default_value = Namespace::PUBLIC)]
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the tokens of an account
    List {
        /// The e-mail address or id of the account
        #[arg(long)]
        account: String,
        #[command(flatten)]
        target: Target,
    },
    /// Refuse a token from now on
    Revoke {
        /// Its id, see `lockable token list`
        id: String,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Acquire, heartbeat and release
    Lock,
    /// Look after the account
    Manage,
}

impl Command {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::Create { account, label, scopes, namespace, target } => {
                let (database, output) = target.open().await?;
                let scopes = Scopes { lock: scopes.contains(&Scope::Lock), manage: scopes.contains(&Scope::Manage) };
                let made = database
                    .create_token(Actor::Operator, &account, &TokenRequest { label, scopes, namespace })
                    .await?;
                let token = made.token.reveal();
                let item = serde_json::json!({ "id": made.id, "token": token });
                output.made(&item, &format!("Made a token for {account}, shown this once:\n\n    {token}\n"));
            }
            Self::List { account, target } => {
                let (database, output) = target.open().await?;
                output.list(&database.list_tokens(&account).await?);
            }
            Self::Revoke { id, target } => {
                let (database, output) = target.open().await?;
                database.revoke_token(Actor::Operator, None, &id).await?;
                output.done(&format!("token {id} is revoked"));
            }
        }
        Ok(())
    }
}

impl Shown for TokenInfo {
    const HEADINGS: &'static [&'static str] = &["id", "label", "scopes", "namespace", "made", "last used", "revoked"];

    fn row(&self) -> Vec<String> {
        let scopes = [(self.scopes.lock, "lock"), (self.scopes.manage, "manage")];
        let scopes: Vec<_> = scopes.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
        let times = [Some(self.created_at), self.last_used_at, self.revoked_at].map(time);
        let texts = [self.id.clone(), self.label.clone(), scopes.join(","), self.namespace.clone()];
        texts.into_iter().chain(times).collect()
    }
}
