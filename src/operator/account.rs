use std::time::Duration;

use clap::Subcommand;

use super::{Output, Shown, Target, output::time};
use crate::{
    accounts::{AccountInfo, AccountsError, Actor, Database, Secret},
    config::PublicUrl,
    lock::{Label, Lease, parse_duration_ms},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an account and its first token, which is printed this once
    Create {
        #[arg(long)]
        email: String,
        /// See `lockable plan list`
        #[arg(long, default_value = "hobbyist")]
        plan: String,
        /// What the token is called
        #[arg(long, default_value = "first", value_parser = label)]
        label: Label,
        #[command(flatten)]
        target: Target,
    },
    /// Print a link with which somebody can make an account, once
    Invite {
        /// Only for this e-mail address
        #[arg(long)]
        email: Option<String>,
        /// See `lockable plan list`
        #[arg(long, default_value = "hobbyist")]
        plan: String,
        #[command(flatten)]
        link: LinkOptions,
        #[command(flatten)]
        target: Target,
    },
    /// Print a link with which an account can be given a new password, once
    ResetPassword {
        /// Its e-mail address or id
        account: String,
        #[command(flatten)]
        link: LinkOptions,
        #[command(flatten)]
        target: Target,
    },
    /// List all accounts
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show one account
    Show {
        /// Its e-mail address or id
        account: String,
        #[command(flatten)]
        target: Target,
    },
    /// Put an account on another plan
    SetPlan {
        /// Its e-mail address or id
        account: String,
        plan: String,
        #[command(flatten)]
        target: Target,
    },
    /// Set the lease of those of its requests that ask for none
    SetLease {
        /// Its e-mail address or id
        account: String,
        /// Such as 90s or 5m; "default" for the plan's
        #[arg(value_parser = own_lease)]
        lease: OwnLease,
        #[command(flatten)]
        target: Target,
    },
    /// Refuse all requests of an account
    Suspend {
        /// Its e-mail address or id
        account: String,
        #[command(flatten)]
        target: Target,
    },
    /// Delete an account for good, with its tokens, namespaces and locks; its e-mail address is free then
    Delete {
        /// Its e-mail address or id
        account: String,
        #[command(flatten)]
        target: Target,
    },
    /// Serve a suspended account again
    Resume {
        /// Its e-mail address or id
        account: String,
        #[command(flatten)]
        target: Target,
    },
}

/// What a link looks like, and how long it works.
#[derive(Debug, clap::Args)]
pub struct LinkOptions {
    /// How long the link works
    #[arg(long, default_value = "24h", value_parser = valid)]
    valid: Duration,
    #[command(flatten)]
    public: PublicUrl,
}

/// A lease of its own for an account, or none.
#[derive(Clone, Copy, Debug)]
pub struct OwnLease(Option<Lease>);

impl Command {
    pub(super) async fn run(self) -> Result<(), AccountsError> {
        match self {
            Self::Create { email, plan, label, target } => {
                let (database, output) = target.open().await?;
                let made = database.create_account(&email, &plan, label).await?;
                let token = made.token.token.reveal();
                let item = serde_json::json!({
                    "account": made.account, "token": token, "token_id": made.token.id,
                });
                let words = format!(
                    "Made account {} on plan {plan}. Its token, shown this once:\n\n    {token}\n",
                    made.account.email
                );
                output.made(&item, &words);
            }
            Self::Invite { email, plan, link, target } => {
                let (database, output) = target.open().await?;
                let secret = database.invite(email.as_deref(), &plan, link.valid).await?;
                link.print(output, &secret, "Whoever opens this link can make an account, once");
            }
            Self::ResetPassword { account, link, target } => {
                let (database, output) = target.open().await?;
                let secret = database.reset_password(Actor::Operator, &account, link.valid).await?;
                link.print(
                    output,
                    &secret,
                    &format!("Whoever opens this link can give {account} a new password, once"),
                );
            }
            Self::List { target } => {
                let (database, output) = target.open().await?;
                output.list(&database.list_accounts().await?);
            }
            Self::Show { account, target } => {
                let (database, output) = target.open().await?;
                output.show(&database.show_account(&account).await?);
            }
            Self::SetPlan { account, plan, target } => {
                let (database, output) = target.open().await?;
                database.set_plan(&account, &plan).await?;
                output.done(&format!("{account} is on plan {plan}"));
            }
            Self::SetLease { account, lease: OwnLease(lease), target } => {
                let (database, output) = target.open().await?;
                database.set_lease(Actor::Operator, &account, lease).await?;
                let lease = lease.map_or("its plan's lease".into(), |lease| format!("a lease of {lease}"));
                output.done(&format!("{account} has {lease}"));
            }
            Self::Suspend { account, target } => {
                let (database, output) = target.open().await?;
                database.set_suspended(&account, true).await?;
                output.done(&format!("{account} is suspended"));
            }
            Self::Delete { account, target } => {
                let (database, output) = target.open().await?;
                database.delete_account(Actor::Operator, &account).await?;
                output.done(&format!("{account} is deleted; a server releases its locks"));
            }
            Self::Resume { account, target } => {
                let (database, output) = target.open().await?;
                database.set_suspended(&account, false).await?;
                output.done(&format!("{account} is served again"));
            }
        }
        Ok(())
    }
}

impl LinkOptions {
    fn print(&self, output: Output, secret: &Secret, words: &str) {
        let origin = self.public.origin();
        let link = format!("{}/account/link/{}", origin.as_deref().unwrap_or_default(), secret.reveal());
        let hint = match origin {
            Some(_) => "",
            None => "\nPut the address of your server before it, or name that in LOCKABLE_PUBLIC_URL.\n",
        };
        output.made(&serde_json::json!({ "link": link }), &format!("{words}:\n\n    {link}\n{hint}"));
    }
}

impl Shown for AccountInfo {
    const HEADINGS: &'static [&'static str] = &["email", "plan", "lease", "made", "suspended", "id"];

    fn row(&self) -> Vec<String> {
        let lease = self.lease_ms.map_or("-".into(), |ms| Lease::from_ms(ms.max(0) as u64).to_string());
        let (made, suspended) = (time(Some(self.created_at)), time(self.suspended_at));
        vec![self.email.clone(), self.plan.clone(), lease, made, suspended, self.id.to_string()]
    }
}

pub(super) fn label(text: &str) -> Result<Label, String> {
    Label::parse(text).map_err(|error| error.to_string())
}

fn valid(text: &str) -> Result<Duration, String> {
    match parse_duration_ms(text).map(Duration::from_millis).map_err(|error| error.to_string())? {
        valid if valid > Database::LINK_VALID_MAX => {
            Err(format!("{} days at most", Database::LINK_VALID_MAX.as_secs() / 86_400))
        }
        valid => Ok(valid),
    }
}

fn own_lease(text: &str) -> Result<OwnLease, String> {
    match text {
        "default" => Ok(OwnLease(None)),
        _ => parse_duration_ms(text).map(|ms| OwnLease(Some(Lease::from_ms(ms)))).map_err(|error| error.to_string()),
    }
}
