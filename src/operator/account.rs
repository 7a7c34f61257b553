use std::time::Duration;

use clap::Subcommand;

use super::{CommonOptions, Printer, TableRow, output::time};
use crate::{
    accounts::{AccountInfo, AccountsError, Actor, Database, Secret},
    config::PublicUrl,
    lock::{Label, Lease, parse_duration_ms},
};

#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Create an account and its first token, which is printed only once
    Create {
        #[arg(long)]
        email: String,
        /// Plan of the account, see `lockable plan list`
        #[arg(long, default_value = "hobbyist")]
        plan: String,
        /// Label of the token
        #[arg(long, default_value = "first", value_parser = label)]
        label: Label,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Print a single-use sign-up link
    Invite {
        /// Restrict the link to this e-mail address
        #[arg(long)]
        email: Option<String>,
        /// Plan of the account, see `lockable plan list`
        #[arg(long, default_value = "hobbyist")]
        plan: String,
        #[command(flatten)]
        link: LinkOptions,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Print a single-use link that sets a new password for an account
    ResetPassword {
        /// E-mail address or id of the account
        account: String,
        #[command(flatten)]
        link: LinkOptions,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// List all accounts
    List {
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Show one account
    Show {
        /// E-mail address or id of the account
        account: String,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Change the plan of an account
    SetPlan {
        /// E-mail address or id of the account
        account: String,
        plan: String,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Set the default lease of an account, for requests without a lease
    SetLease {
        /// E-mail address or id of the account
        account: String,
        /// Lease such as 90s or 5m; "default" restores the plan's default
        #[arg(value_parser = account_lease)]
        lease: AccountLease,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Suspend an account: the servers reject all its requests
    Suspend {
        /// E-mail address or id of the account
        account: String,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Delete an account permanently, with its tokens, namespaces and locks; its e-mail address
    /// becomes available again
    Delete {
        /// E-mail address or id of the account
        account: String,
        #[command(flatten)]
        common: CommonOptions,
    },
    /// Resume a suspended account
    Resume {
        /// E-mail address or id of the account
        account: String,
        #[command(flatten)]
        common: CommonOptions,
    },
}

/// Options of a link.
#[derive(Debug, clap::Args)]
pub struct LinkOptions {
    /// Validity of the link
    #[arg(long, default_value = "24h", value_parser = valid)]
    valid: Duration,
    #[command(flatten)]
    public: PublicUrl,
}

/// An account's default lease; `None` selects the plan's.
#[derive(Clone, Copy, Debug)]
pub struct AccountLease(Option<Lease>);

impl AccountCommand {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::Create { email, plan, label, common } => {
                let (database, printer) = common.open().await?;
                let created = database.create_account(&email, &plan, label).await?;
                let token = created.token.token.reveal();
                let item = serde_json::json!({
                    "account": created.account, "token": token, "token_id": created.token.id,
                });
                let text = format!(
                    "Created account {} with plan {plan}. Its token, which is shown only once:\n\n    {token}\n",
                    created.account.email
                );
                printer.created(&item, &text);
            }
            Self::Invite { email, plan, link, common } => {
                let (database, printer) = common.open().await?;
                let secret = database.invite(email.as_deref(), &plan, link.valid).await?;
                link.print(printer, &secret, "Single-use sign-up link");
            }
            Self::ResetPassword { account, link, common } => {
                let (database, printer) = common.open().await?;
                let secret = database.reset_password(Actor::Operator, &account, link.valid).await?;
                link.print(printer, &secret, &format!("Single-use link to set a new password for {account}"));
            }
            Self::List { common } => {
                let (database, printer) = common.open().await?;
                printer.list(&database.list_accounts().await?);
            }
            Self::Show { account, common } => {
                let (database, printer) = common.open().await?;
                printer.show(&database.show_account(&account).await?);
            }
            Self::SetPlan { account, plan, common } => {
                let (database, printer) = common.open().await?;
                database.set_plan(&account, &plan).await?;
                printer.done(&format!("changed the plan of {account} to {plan}"));
            }
            Self::SetLease { account, lease: AccountLease(lease), common } => {
                let (database, printer) = common.open().await?;
                database.set_lease(Actor::Operator, &account, lease).await?;
                let lease = lease.map_or("its plan's default".into(), |lease| lease.to_string());
                printer.done(&format!("set the default lease of {account} to {lease}"));
            }
            Self::Suspend { account, common } => {
                let (database, printer) = common.open().await?;
                database.set_suspended(&account, true).await?;
                printer.done(&format!("suspended {account}"));
            }
            Self::Delete { account, common } => {
                let (database, printer) = common.open().await?;
                database.delete_account(Actor::Operator, &account).await?;
                printer.done(&format!("deleted {account}; a running server will release its locks"));
            }
            Self::Resume { account, common } => {
                let (database, printer) = common.open().await?;
                database.set_suspended(&account, false).await?;
                printer.done(&format!("resumed {account}"));
            }
        }
        Ok(())
    }
}

impl LinkOptions {
    fn print(&self, printer: Printer, secret: &Secret, text: &str) {
        let origin = self.public.origin();
        let link = format!("{}/account/link/{}", origin.as_deref().unwrap_or_default(), secret.reveal());
        let hint = match origin {
            Some(_) => "",
            None => "\nPrepend the address of your server, or set LOCKABLE_PUBLIC_URL.\n",
        };
        printer.created(&serde_json::json!({ "link": link }), &format!("{text}:\n\n    {link}\n{hint}"));
    }
}

impl TableRow for AccountInfo {
    const HEADINGS: &'static [&'static str] = &["email", "plan", "lease", "created", "suspended", "id"];

    fn row(&self) -> Vec<String> {
        let lease = self.lease_ms.map_or("-".into(), |ms| Lease::from_ms(ms.max(0) as u64).to_string());
        let (created, suspended) = (time(Some(self.created_at)), time(self.suspended_at));
        vec![self.email.clone(), self.plan.clone(), lease, created, suspended, self.id.to_string()]
    }
}

pub(super) fn label(text: &str) -> Result<Label, String> {
    Label::parse(text).map_err(|error| error.to_string())
}

fn valid(text: &str) -> Result<Duration, String> {
    match parse_duration_ms(text).map(Duration::from_millis).map_err(|error| error.to_string())? {
        valid if valid > Database::LINK_VALID_MAX => {
            Err(format!("at most {} days", Database::LINK_VALID_MAX.as_secs() / 86_400))
        }
        valid => Ok(valid),
    }
}

fn account_lease(text: &str) -> Result<AccountLease, String> {
    match text {
        "default" => Ok(AccountLease(None)),
        _ => {
            parse_duration_ms(text).map(|ms| AccountLease(Some(Lease::from_ms(ms)))).map_err(|error| error.to_string())
        }
    }
}
