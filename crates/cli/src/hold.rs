use std::{env, time::Duration};

use lockable_client::{Client, Error, clock};
use nix::unistd::{User, gethostname, getuid};

use super::{
    acquire::{acquire, granted, refused},
    args::{GrantArgs, LockNameArgs, duration, note, owner},
    error::CliError,
    server_command::{CommandOutput, Execute, ExecuteError},
};

/// Hold a lock for a fixed time, for example during maintenance.
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    #[command(flatten)]
    lock: LockNameArgs,
    /// The lock's holder [default: user@host]
    #[arg(long, env = "LOCKABLE_OWNER", value_parser = owner)]
    owner: Option<String>,
    /// How long to hold the lock; the plan sets the maximum
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    time: Duration,
    /// Text shown to callers of the same account while the lock is held
    #[arg(long, env = "LOCKABLE_NOTE", value_parser = note)]
    note: Option<String>,
    /// How long to wait for the lock [default: 0]
    #[arg(short, long, env = "LOCKABLE_WAIT", value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,
}

impl Execute for HoldArgs {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError> {
        let owner = self.owner.clone().unwrap_or_else(user_at_host);
        let grant = GrantArgs { lease: Some(self.time), note: self.note.clone() };
        let request = grant.apply(self.lock.request()?.owner(&owner)?);
        let acquired = acquire(client, &request, self.wait).await;
        let grant = match acquired {
            Ok(Ok(grant)) => grant,
            Ok(Err(refusal)) => return Ok(refused(&request, *refusal)),
            Err(ExecuteError::Client(Error::Problem(problem))) if problem.slug() == "lease-out-of-range" => {
                let advice = "to hold a lock for as long as a command runs, use lockable run";
                return Err(CliError::Usage(format!("{}; {advice}", problem.detail)).into());
            }
            Err(error) => return Err(error),
        };
        let namespace = self.lock.namespace.as_ref().map(|name| format!(" --namespace {name}")).unwrap_or_default();
        let (name, until) = (request.name(), clock(&grant.expires_at));
        let text = format!(
            "held {name} until {until} as {owner}\nrelease it with: lockable release {name} --owner {owner}{namespace}"
        );
        Ok(CommandOutput { text, ..granted("held", &request, grant) })
    }
}

fn user_at_host() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.or_else(|| User::from_uid(getuid()).ok()?.map(|user| user.name));
    let user = user.unwrap_or_else(|| getuid().to_string());
    let host = gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    format!("{user}@{host}").chars().filter(char::is_ascii_graphic).take(128).collect()
}
