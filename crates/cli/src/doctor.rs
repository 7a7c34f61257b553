//! `lockable doctor`: checks the settings, the network, the server and the token.

use std::time::Duration;

use lockable_client::{Account, Client, Error, recovering};
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use url::Url;

use super::{
    NO, YES,
    error::CliError,
    sanitized,
    server::{Server, ServerArgs},
};
use crate::exit::{self, Exit};

/// Limit for a DNS lookup and for a connection.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Check the address, the connection, TLS, the token and the plan
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all checks passed, 1 a check failed")]
pub struct DoctorArgs {
    /// Print JSON: one object with the list of checks
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the checks in order, and stops at the first failed check with advice.
pub(super) async fn doctor(doctor: &DoctorArgs) -> Result<Exit, CliError> {
    let mut checks = Checks { is_json: doctor.json, results: Vec::new() };
    let outcome = checks.run(&doctor.server).await;
    let has_passed = outcome.is_ok();
    match outcome {
        Ok(()) => {}
        Err(CheckError::Failed(detail, advice)) => {
            checks.results.push(json!({ "ok": false, "detail": &*detail, "advice": &*advice }));
            checks.print(&format!("FAIL   {}\n       {}\n", sanitized(&detail), sanitized(&advice)))?;
        }
        Err(CheckError::Unprinted(failure)) => return Err(failure),
    }
    if doctor.json {
        exit::print(&format!("{}\n", json!({ "ok": has_passed, "examined": checks.results })))?;
    }
    Ok(Exit::Code(if has_passed { YES } else { NO }))
}

enum CheckError {
    /// The failure, and advice.
    Failed(String, String),
    /// The results cannot be printed.
    Unprinted(CliError),
}

impl From<CliError> for CheckError {
    fn from(failure: CliError) -> Self {
        Self::Unprinted(failure)
    }
}

fn failed(detail: impl Into<String>, advice: impl Into<String>) -> CheckError {
    CheckError::Failed(detail.into(), advice.into())
}

struct Checks {
    is_json: bool,
    results: Vec<Value>,
}

impl Checks {
    async fn run(&mut self, args: &ServerArgs) -> Result<(), CheckError> {
        let advice = "set it by an option or a variable, or run lockable login; see lockable login --help";
        let server = args.server().map_err(|failure| failed(failure.reason(), advice))?;
        let client = server.client().map_err(|failure| failed(failure.reason(), advice))?;
        self.passed("address", &format!("{} (from {})", client.origin(), server.url_source))?;
        self.passed("token", &format!("is set (from {})", server.token_source))?;
        match client.proxy() {
            Some(proxy) => {
                self.passed("proxy", &format!("{} (from {}; NO_PROXY excludes hosts)", proxy.address, proxy.variable))?;
            }
            None => self.reach(&server).await?,
        }
        let account = account(&client, &server).await?;
        self.passed("server", "is a Lockable server and accepts the token")?;
        let scopes = account.token.scopes.join(", ");
        if !account.token.scopes.iter().any(|scope| scope == "lock") {
            let advice = "create a token with the scope lock on the account page";
            return Err(failed(format!("the token lacks the scope lock; its scopes are: {scopes}"), advice));
        }
        let plan = &account.plan;
        let limits = format!("{} locks at once, {} requests per second", plan.locks_max, plan.rate_per_second);
        self.passed("plan", &format!("{}: {limits}", plan.name))?;
        self.passed("scopes", &scopes)?;
        match &account.recovering_until {
            None => Ok(()),
            Some(until) => Err(failed(
                format!("the lock store {}", recovering(until)),
                "wait until then; current holders keep their locks and can renew them",
            )),
        }
    }

    /// Looks up the host and connects to it.
    async fn reach(&mut self, server: &Server) -> Result<(), CheckError> {
        let Some(url) = Url::parse(&server.url).ok() else { return Ok(()) };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return Ok(()) };
        let host = host.trim_matches(['[', ']']);
        let found = match timeout(TIMEOUT, lookup_host((host, port))).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                let advice = "check the host's name in the address, and DNS on this machine";
                return Err(failed(format!("the host {host} is unknown: {error}"), advice));
            }
            Err(_) => {
                return Err(failed(
                    format!("DNS did not answer for the host {host} in time"),
                    "check DNS on this machine",
                ));
            }
        };
        let addresses = if found.len() == 1 { "address" } else { "addresses" };
        self.passed("name", &format!("{host} has {} {addresses}", found.len()))?;
        let advice = "check that the server runs and listens on this port, and that no firewall blocks it";
        match timeout(TIMEOUT, TcpStream::connect(&*found)).await {
            Ok(Ok(stream)) => {
                let peer = stream.peer_addr().map_or(host.to_owned(), |peer| peer.to_string());
                self.passed("connection", &format!("to {peer}"))?;
                Ok(())
            }
            Ok(Err(error)) => Err(failed(format!("cannot connect to {host}:{port}: {error}"), advice)),
            Err(_) => Err(failed(format!("cannot connect to {host}:{port}: no answer in time"), advice)),
        }
    }

    fn passed(&mut self, name: &str, detail: &str) -> Result<(), CliError> {
        self.results.push(json!({ "ok": true, "name": name, "detail": detail }));
        self.print(&format!("ok     {name}: {}\n", sanitized(detail)))
    }

    fn print(&self, text: &str) -> Result<(), CliError> {
        match self.is_json {
            true => Ok(()),
            false => Ok(exit::print(text)?),
        }
    }
}

async fn account(client: &Client, server: &Server) -> Result<Account, CheckError> {
    client.account().await.map_err(|error| {
        let advice = server.advice(&error).unwrap_or(match &error {
            Error::Unreachable { .. } => "check that the server runs and listens on this port",
            _ => "ask the operator to look up this request in the server's log",
        });
        failed(server.message(&error), advice)
    })
}
