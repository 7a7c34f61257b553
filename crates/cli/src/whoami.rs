use lockable_client::Account;
use lockable_protocol::Lease;
use serde_json::json;

use super::{
    YES,
    error::CliError,
    sanitized,
    server::{Server, ServerArgs},
};
use crate::exit::{self, Exit};

/// Show the server, the token, the plan, and the source of each setting
#[derive(Debug, clap::Args)]
pub struct WhoamiArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn whoami(args: &WhoamiArgs) -> Result<Exit, CliError> {
    let server = args.server.server()?;
    let account = server.client()?.account().await.map_err(|error| server.cli_error(&error))?;
    let text = if args.json { to_json(&server, &account) } else { to_text(&server, &account) };
    exit::print(&format!("{text}\n"))?;
    Ok(Exit::Code(YES))
}

fn to_text(server: &Server, account: &Account) -> String {
    let plan = &account.plan;
    let lines = [
        ("server", format!("{} (from {})", server.url, server.url_source)),
        ("token", format!("{} (from {})", account.token.label, server.token_source)),
        ("scopes", account.token.scopes.join(", ")),
        ("plan", format!("{}, {} requests per second", plan.name, plan.rate_per_second)),
        ("locks", format!("{} of {} held", account.locks_held, plan.locks_max)),
        ("queue", format!("{} of {} requests waiting", account.requests_waiting, plan.waiting_max)),
        ("lease", format!("{} by default, {} at most", lease(account.lease_ms), lease(plan.lease_max_ms))),
        ("namespaces", namespaces(account)),
    ];
    lines.map(|(name, value)| format!("{name:10}  {}", sanitized(&value))).join("\n")
}

fn namespaces(account: &Account) -> String {
    let default = account.default_namespace.as_deref();
    let names = account.namespaces.iter().map(|name| match default == Some(name) {
        true => format!("{name} (default)"),
        false => name.clone(),
    });
    names.collect::<Vec<_>>().join(", ")
}

fn lease(ms: u64) -> String {
    Lease::from_ms(ms).to_string()
}

fn to_json(server: &Server, account: &Account) -> String {
    json!({
        "server": server.url,
        "sources": { "server": server.url_source, "token": server.token_source },
        "account": account.answer,
    })
    .to_string()
}
