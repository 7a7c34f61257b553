//! `lockable doctor`: what is wrong between this machine and the server.

#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::{env, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use url::Url;

use super::{
    NO, YES, plain,
    server::{Server, ServerArgs},
};
use crate::client::{Account, Client, Error, recovering};

/// How long names and connections may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What `lockable doctor` takes.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    #[command(flatten)]
    server: ServerArgs,
}

/// Looks at one thing after the other, says how it is, and stops at the first that
/// is wrong, with what to do about it. Returns the exit code.
pub(super) async fn doctor(doctor: &Doctor) -> u8 {
    match examine(&doctor.server).await {
        Ok(()) => YES,
        Err((what, advice)) => {
            println!("WRONG  {}", plain(&what));
            println!("       {}", plain(&advice));
            NO
        }
    }
}

type Finding = (String, String);

async fn examine(args: &ServerArgs) -> Result<(), Finding> {
    let server = args.server().map_err(|reason| (reason, "see lockable login --help".to_owned()))?;
    let client = server
        .client()
        .map_err(|reason| (reason, "settings are read from flags, variables and lockable login".to_owned()))?;
    good("address", &format!("{} (from {})", client.origin(), server.url_source));
    good("token", &format!("is set (from {})", server.token_source));
    match proxy(&server.url) {
        Some(name) => good("proxy", &format!("requests go where {name} says")),
        None => reach(&server).await?,
    }
    let account = ask(&client, &server).await?;
    good("server", "is a Lockable server, and knows the token");
    let scopes = account.token.scopes.join(", ");
    if !account.token.scopes.iter().any(|scope| scope == "lock") {
        let advice = "an operator makes another: lockable token create --scope lock".to_owned();
        return Err((format!("the token may not lock, its scopes are: {scopes}"), advice));
    }
    let plan = &account.plan;
    let figures = format!("{} locks at once, {} requests a second", plan.locks_max, plan.rate_per_second);
    good("plan", &format!("{}: {figures}", plan.name));
    good("scopes", &scopes);
    match &account.recovering_until {
        None => Ok(()),
        Some(until) => Err((
            format!("the lock store {}", recovering(until)),
            "wait until then; holders keep their locks, and their heartbeats work".to_owned(),
        )),
    }
}

/// Whether the host can be found, and lets itself be connected to.
async fn reach(server: &Server) -> Result<(), Finding> {
    let Some(url) = Url::parse(&server.url).ok() else { return Ok(()) };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return Ok(()) };
    let host = host.trim_matches(['[', ']']);
    let found = match timeout(TIMEOUT, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            return Err((
                format!("{host} cannot be found: {error}"),
                "is the name right, and does DNS work here?".to_owned(),
            ));
        }
        Err(_) => return Err((format!("{host} cannot be found in time"), "does DNS work here?".to_owned())),
    };
    good("name", &format!("{host} has {} addresses", found.len()));
    let advice = "does the server run, on that port, and do firewalls let it be reached from here?";
    match timeout(TIMEOUT, TcpStream::connect(&*found)).await {
        Ok(Ok(stream)) => {
            let peer = stream.peer_addr().map_or(host.to_owned(), |peer| peer.to_string());
            good("connection", &format!("to {peer}"));
        }
        Ok(Err(error)) => return Err((format!("{host}:{port} cannot be connected to: {error}"), advice.to_owned())),
        Err(_) => {
            return Err((format!("{host}:{port} does not let itself be connected to in time"), advice.to_owned()));
        }
    }
    Ok(())
}

async fn ask(client: &Client, server: &Server) -> Result<Account, Finding> {
    client.account().await.map_err(|error| {
        let advice = match &error {
            Error::Unreachable { reason, .. } if reason.contains("UnknownIssuer") => {
                "its certificate is of a CA that is not trusted here: name the CA's file in LOCKABLE_CA_FILE"
            }
            Error::Unreachable { reason, .. } if reason.contains("certificate") => {
                "its certificate is for another name, or out of date, see above"
            }
            Error::Unreachable { .. } if server.url.starts_with("https:") => {
                "does it speak TLS on that port? if not, the address begins with http://"
            }
            Error::Unreachable { .. } => "does it speak plain HTTP on that port? if not, the address begins with https://",
            Error::Stranger { .. } => "is there another program, or a login page, at this address?",
            Error::Problem(problem) if problem.status == 401 => {
                "is it the whole token, of this server, and not revoked? an operator makes another: lockable token create"
            }
            Error::Problem(problem) if problem.status == 403 => "an operator can say more: lockable account list",
            _ => "an operator can say more: ask for the server's log with this request's id",
        };
        (error.to_string(), advice.to_owned())
    })
}

/// The variable that names a proxy for this address, if one does.
fn proxy(url: &str) -> Option<&'static str> {
    let names = match url.starts_with("https:") {
        true => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        false => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    names.into_iter().find(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn good(what: &str, words: &str) {
    println!("ok     {what}: {}", plain(words));
}
