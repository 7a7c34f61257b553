//! `lockable whoami` and `history`: what the server knows of the caller and of the past.

use serde_json::json;

use super::{
    YES,
    args::NameArgs,
    failure::Failure,
    plain, say,
    server::{Server, ServerArgs},
};
use crate::{
    client::Account,
    exit::{self, Exit},
};

/// Show the server, the token, the plan, and where each setting comes from
#[derive(Debug, clap::Args)]
pub struct Whoami {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Print the address of the page with the past grants of a lock
///
/// The API of this version has no history; the account page has.
#[derive(Debug, clap::Args)]
pub struct History {
    #[command(flatten)]
    lock: NameArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints what the server knows of the caller.
pub(super) async fn whoami(whoami: &Whoami) -> Result<Exit, Failure> {
    let server = whoami.server.server()?;
    let account = server.client()?.account().await.map_err(|error| server.failure(&error))?;
    let text = if whoami.json { in_json(&server, &account) } else { in_words(&server, &account) };
    exit::print(&format!("{text}\n"))?;
    Ok(Exit::Code(YES))
}

fn in_words(server: &Server, account: &Account) -> String {
    let plan = &account.plan;
    let lines = [
        ("server", format!("{} (from {})", server.url, server.url_source)),
        ("token", format!("{} (from {})", account.token.label, server.token_source)),
        ("scopes", account.token.scopes.join(", ")),
        ("plan", format!("{}, {} requests a second", plan.name, plan.rate_per_second)),
        ("locks", format!("{} of {} held", account.locks_held, plan.locks_max)),
        ("queue", format!("{} of {} requests wait", account.requests_waiting, plan.waiting_max)),
        ("lease", format!("{} unless set, {} at most", time(account.lease_ms), time(plan.lease_max_ms))),
        ("namespaces", namespaces(account)),
    ];
    lines.map(|(name, value)| format!("{name:10}  {}", plain(&value))).join("\n")
}

fn namespaces(account: &Account) -> String {
    let default = account.default_namespace.as_deref();
    let named = account.namespaces.iter().map(|name| match default == Some(name) {
        true => format!("{name} (default)"),
        false => name.clone(),
    });
    named.collect::<Vec<_>>().join(", ")
}

fn time(ms: u64) -> String {
    crate::lock::Lease::from_ms(ms).to_string()
}

fn in_json(server: &Server, account: &Account) -> String {
    json!({
        "server": server.url,
        "sources": { "server": server.url_source, "token": server.token_source },
        "account": account.answer,
    })
    .to_string()
}

/// Prints where a browser shows the history of a lock.
pub(super) async fn history(history: &History) -> Result<Exit, Failure> {
    let server = history.server.server()?;
    let client = server.client()?;
    let namespace = match &history.lock.namespace {
        Some(namespace) => namespace.clone(),
        None => {
            let account = client.account().await.map_err(|error| server.failure(&error))?;
            account.default_namespace.unwrap_or_else(|| "public".to_owned())
        }
    };
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("namespace", &namespace)
        .append_pair("name", &history.lock.name)
        .finish();
    say("the API has no history yet; this page has, after a sign-in:");
    exit::print(&format!("{}/account/locks/history?{query}\n", client.origin()))?;
    Ok(Exit::Code(YES))
}
