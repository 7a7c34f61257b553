use lockable_client::{Error, Peer, Problem};

use super::{UNAVAILABLE, print_message, server::Server};
use crate::exit::Exit;

/// The exit code for a usage error, the same as clap's.
const USAGE: u8 = 2;

/// Why a command has no result.
#[derive(Debug)]
pub enum CliError {
    /// An argument, a variable or a profile is invalid.
    Usage(String),
    /// The server is unreachable, or returned an error.
    Unavailable(String),
    /// The message was printed already, or none is needed.
    Exit(Exit),
}

impl CliError {
    /// Prints the reason. Returns how the process ends.
    pub fn report(&self) -> Exit {
        match self {
            Self::Usage(reason) => {
                print_message(reason);
                Exit::Code(USAGE)
            }
            Self::Unavailable(reason) => {
                print_message(reason);
                Exit::Code(UNAVAILABLE)
            }
            Self::Exit(exit) => *exit,
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Usage(reason) | Self::Unavailable(reason) => reason,
            Self::Exit(_) => "",
        }
    }
}

impl From<Exit> for CliError {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}

impl Server {
    /// Converts the error of a request: message, advice and exit code.
    pub fn cli_error(&self, error: &Error) -> CliError {
        let mut reason = self.message(error);
        if let Some(advice) = self.advice(error) {
            reason = format!("{reason}; {advice}");
        }
        match error {
            Error::Malformed(_) => CliError::Usage(reason),
            Error::Problem(problem) if is_usage_error(problem) => CliError::Usage(reason),
            _ => CliError::Unavailable(reason),
        }
    }

    /// Describes the error.
    pub fn message(&self, error: &Error) -> String {
        match error {
            Error::Problem(problem) if problem.status == 401 => {
                let Problem { request_id, .. } = &**problem;
                format!("the server rejected the token from {} (request {request_id})", self.token_source)
            }
            error => error.to_string(),
        }
    }

    /// Advises the user how to fix the error.
    pub fn advice(&self, error: &Error) -> Option<&'static str> {
        match error {
            Error::UnknownHost { .. } => Some("check the host's name in the address, and DNS on this machine"),
            Error::Insecure { reason, .. } if reason.contains("UnknownIssuer") => {
                Some("set LOCKABLE_CA_FILE to the file of its CA")
            }
            Error::Insecure { reason, .. } if reason.contains("does not use TLS") => {
                Some("if the server uses plain HTTP, write http:// in the address")
            }
            Error::Insecure { .. } => {
                Some("check the certificate's host names and dates against the address and the clock")
            }
            Error::UnexpectedAnswer { reason, .. }
                if reason.contains("not HTTP") && !self.url.starts_with("https:") =>
            {
                Some("if the server uses HTTPS, write https:// in the address")
            }
            Error::UnexpectedAnswer { peer: Peer { proxy: Some(_), .. }, .. } => {
                Some("to bypass the proxy, add the server to NO_PROXY")
            }
            Error::UnexpectedAnswer { .. } => Some("check whether another program or a login page is at this address"),
            Error::Unreachable { peer: Peer { proxy: Some(_), .. }, .. } => {
                Some("check that the proxy runs; to bypass it, add the server to NO_PROXY")
            }
            Error::Problem(problem) if problem.status == 401 => Some(
                "check that it is complete, from this server and not revoked, or create a token on the account page",
            ),
            Error::Problem(problem) if problem.slug() == "lease-out-of-range" => {
                Some("set --lease within that range, or leave it out for the account's lease")
            }
            _ => None,
        }
    }
}

/// Whether a retry of the same request always fails.
fn is_usage_error(problem: &Problem) -> bool {
    problem.status == 400 || matches!(problem.slug(), "lease-out-of-range" | "namespace-denied")
}
