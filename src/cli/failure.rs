use super::{FAILED, say, server::Server};
use crate::{
    client::{Error, Peer, Problem},
    exit::Exit,
};

/// The exit code of wrong usage, as clap has it.
const USAGE: u8 = 2;

/// Why a command ends without a yes or a no.
#[derive(Debug)]
pub enum Failure {
    /// Arguments, variables or a profile are wrong.
    Usage(String),
    /// The server could not be asked, or did not say yes or no.
    Unavailable(String),
    /// The message was printed already, or none is needed.
    Exit(Exit),
}

impl Failure {
    /// Shows the reason. Returns how the process ends.
    pub fn report(&self) -> Exit {
        match self {
            Self::Usage(reason) => {
                say(reason);
                Exit::Code(USAGE)
            }
            Self::Unavailable(reason) => {
                say(reason);
                Exit::Code(FAILED)
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

impl From<Exit> for Failure {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}

impl Server {
    /// What a failed request means for the person who runs the command.
    pub fn failure(&self, error: &Error) -> Failure {
        let mut reason = self.what(error);
        if let Some(advice) = self.advice(error) {
            reason = format!("{reason}; {advice}");
        }
        match error {
            Error::Malformed(_) => Failure::Usage(reason),
            Error::Problem(problem) if is_wrong_usage(problem) => Failure::Usage(reason),
            _ => Failure::Unavailable(reason),
        }
    }

    /// What happened.
    pub fn what(&self, error: &Error) -> String {
        match error {
            Error::Problem(problem) if problem.status == 401 => {
                let Problem { request_id, .. } = &**problem;
                format!("the server does not accept the token from {} (request {request_id})", self.token_source)
            }
            error => error.to_string(),
        }
    }

    /// What to do about it.
    pub fn advice(&self, error: &Error) -> Option<&'static str> {
        match error {
            Error::UnknownHost { .. } => Some("is the name right, and does DNS work here?"),
            Error::Insecure { reason, .. } if reason.contains("UnknownIssuer") => {
                Some("name the CA's file in LOCKABLE_CA_FILE")
            }
            Error::Insecure { reason, .. } if reason.contains("does not speak TLS") => {
                Some("if it serves plain HTTP, the address begins with http://")
            }
            Error::Insecure { .. } => Some("compare the certificate with the address and today's date"),
            Error::Stranger { what, .. } if what.contains("not HTTP") && !self.url.starts_with("https:") => {
                Some("if it serves HTTPS, the address begins with https://")
            }
            Error::Stranger { peer: Peer { proxy: Some(_), .. }, .. } => {
                Some("NO_PROXY can exclude the server from the proxy")
            }
            Error::Stranger { .. } => Some("is there another program, or a login page, at this address?"),
            Error::Unreachable { peer: Peer { proxy: Some(_), .. }, .. } => {
                Some("does the proxy run? NO_PROXY can exclude the server from it")
            }
            Error::Problem(problem) if problem.status == 401 => {
                Some("is it whole, of this server, and not revoked? The account page makes another")
            }
            Error::Problem(problem) if problem.slug() == "lease-out-of-range" => {
                Some("choose another --lease, or none for the account's own")
            }
            _ => None,
        }
    }
}

/// Whether a request asked for something that can never be.
fn is_wrong_usage(problem: &Problem) -> bool {
    problem.status == 400 || matches!(problem.slug(), "lease-out-of-range" | "namespace-denied")
}
