//! `lockable doctor`: what is wrong between this machine and the server.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use url::Url;

use super::{
    NO, YES,
    failure::Failure,
    plain,
    server::{Server, ServerArgs},
};
use crate::{
    client::{Account, Client, Error, recovering},
    exit::{self, Exit},
};

/// How long names and connections may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Find out what is wrong with the address, TLS, the token or the plan
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all is well, 1 something is wrong")]
pub struct Doctor {
    /// Print JSON: one object, with a list of what was examined
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Examines one thing after the other, and stops at the first that is wrong, with advice.
pub(super) async fn doctor(doctor: &Doctor) -> Result<Exit, Failure> {
    let mut examined = Examined { is_json: doctor.json, findings: Vec::new() };
    let outcome = examined.examine(&doctor.server).await;
    let is_well = outcome.is_ok();
    match outcome {
        Ok(()) => {}
        Err(Wrong::Finding(what, advice)) => {
            examined.findings.push(json!({ "ok": false, "detail": &*what, "advice": &*advice }));
            examined.print(&format!("WRONG  {}\n       {}\n", plain(&what), plain(&advice)))?;
        }
        Err(Wrong::Unprinted(failure)) => return Err(failure),
    }
    if doctor.json {
        exit::print(&format!("{}\n", json!({ "ok": is_well, "examined": examined.findings })))?;
    }
    Ok(Exit::Code(if is_well { YES } else { NO }))
}

enum Wrong {
    /// What is wrong, and what to do about it.
    Finding(String, String),
    Unprinted(Failure),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Unprinted(failure)
    }
}

fn wrong(what: impl Into<String>, advice: impl Into<String>) -> Wrong {
    Wrong::Finding(what.into(), advice.into())
}

struct Examined {
    is_json: bool,
    findings: Vec<Value>,
}

impl Examined {
    async fn examine(&mut self, args: &ServerArgs) -> Result<(), Wrong> {
        let settings = "settings come from flags, variables and lockable login; see lockable login --help";
        let server = args.server().map_err(|failure| wrong(failure.reason(), settings))?;
        let client = server.client().map_err(|failure| wrong(failure.reason(), settings))?;
        self.good("address", &format!("{} (from {})", client.origin(), server.url_source))?;
        self.good("token", &format!("is set (from {})", server.token_source))?;
        match client.proxy() {
            Some(proxy) => {
                self.good("proxy", &format!("{} (from {}; NO_PROXY excludes hosts)", proxy.address, proxy.variable))?;
            }
            None => self.reach(&server).await?,
        }
        let account = ask(&client, &server).await?;
        self.good("server", "is a Lockable server, and accepts the token")?;
        let scopes = account.token.scopes.join(", ");
        if !account.token.scopes.iter().any(|scope| scope == "lock") {
            let advice = "create a token with the scope lock on the account page";
            return Err(wrong(format!("the token may not lock, its scopes are: {scopes}"), advice));
        }
        let plan = &account.plan;
        let figures = format!("{} locks at once, {} requests a second", plan.locks_max, plan.rate_per_second);
        self.good("plan", &format!("{}: {figures}", plan.name))?;
        self.good("scopes", &scopes)?;
        match &account.recovering_until {
            None => Ok(()),
            Some(until) => Err(wrong(
                format!("the lock store {}", recovering(until)),
                "wait until then; holders keep their locks, and their heartbeats work",
            )),
        }
    }

    /// Whether the host has an address, and accepts a connection.
    async fn reach(&mut self, server: &Server) -> Result<(), Wrong> {
        let Some(url) = Url::parse(&server.url).ok() else { return Ok(()) };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return Ok(()) };
        let host = host.trim_matches(['[', ']']);
        let found = match timeout(TIMEOUT, lookup_host((host, port))).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                let advice = "is the name right, and does DNS work here?";
                return Err(wrong(format!("the host {host} is unknown: {error}"), advice));
            }
            Err(_) => return Err(wrong(format!("no answer about the host {host} in time"), "does DNS work here?")),
        };
        let addresses = if found.len() == 1 { "address" } else { "addresses" };
        self.good("name", &format!("{host} has {} {addresses}", found.len()))?;
        let advice = "does the server run, on that port, and do firewalls let it be reached from here?";
        match timeout(TIMEOUT, TcpStream::connect(&*found)).await {
            Ok(Ok(stream)) => {
                let peer = stream.peer_addr().map_or(host.to_owned(), |peer| peer.to_string());
                self.good("connection", &format!("to {peer}"))?;
                Ok(())
            }
            Ok(Err(error)) => Err(wrong(format!("{host}:{port} cannot be connected to: {error}"), advice)),
            Err(_) => Err(wrong(format!("{host}:{port} accepts no connection in time"), advice)),
        }
    }

    fn good(&mut self, what: &str, detail: &str) -> Result<(), Failure> {
        self.findings.push(json!({ "ok": true, "name": what, "detail": detail }));
        self.print(&format!("ok     {what}: {}\n", plain(detail)))
    }

    fn print(&self, text: &str) -> Result<(), Failure> {
        match self.is_json {
            true => Ok(()),
            false => Ok(exit::print(text)?),
        }
    }
}

async fn ask(client: &Client, server: &Server) -> Result<Account, Wrong> {
    client.account().await.map_err(|error| {
        let advice = server.advice(&error).unwrap_or(match &error {
            Error::Unreachable { .. } => "does the server run, and does it answer on this port?",
            _ => "ask the operator for the server's log of this request",
        });
        wrong(server.what(&error), advice)
    })
}
