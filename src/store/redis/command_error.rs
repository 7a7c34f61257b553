use redis::{ErrorKind, RedisError, ServerErrorKind, Value, aio::ConnectionLike};

use crate::store::{Reply, Script, StoreError};

/// What went wrong with something that was sent.
#[derive(Debug)]
pub(super) enum Fault {
    /// So much is under way that this was not sent.
    Full,
    /// No answer came in time.
    Slow,
    /// The connection is gone.
    Gone(String),
    /// The server does not take these writes (any more), and says so on every
    /// connection that it keeps open.
    NoMaster(String),
    /// The server answered with another error.
    Error(String),
}

/// Runs a script under its digest, and sends it whole where the server does not
/// know it (yet, or any more): that loads and runs it at once, so that it
/// cannot be forgotten in between.
pub(super) async fn evaluate(
    connection: &mut impl ConnectionLike,
    script: &'static Script,
    keys: &[&str],
    args: &[&str],
) -> Result<Reply, Fault> {
    let digest = digest(script);
    let command = |name: &str, script: &str| {
        let mut command = redis::cmd(name);
        command.arg(script).arg(keys.len()).arg(keys).arg(args);
        command
    };
    let answer: Result<Value, RedisError> = command("EVALSHA", digest).query_async(connection).await;
    let answer = match answer {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            command("EVAL", script.source).query_async(connection).await
        }
        answer => answer,
    };
    read_reply(answer?)
}

/// The name under which a server knows a script.
pub(super) fn digest(script: &'static Script) -> &'static str {
    script.digest(|source| redis::Script::new(source).get_hash().to_owned())
}

pub(super) fn unexpected() -> Fault {
    Fault::Error("a script returned something other than an array of words".into())
}

fn read_reply(answer: Value) -> Result<Reply, Fault> {
    let Value::Array(values) = answer else { return Err(unexpected()) };
    let mut reply = Reply::default();
    for value in values {
        match value {
            Value::BulkString(bytes) => reply.push(str::from_utf8(&bytes).map_err(|_| unexpected())?),
            Value::Int(number) => reply.push(&number.to_string()),
            _ => return Err(unexpected()),
        }
    }
    Ok(reply)
}

impl Fault {
    /// What the server has answered: the error's code, and its text. Both are its
    /// own; arguments are not in them.
    pub(super) fn refusal(error: String) -> Self {
        match error.split(' ').next() {
            Some("READONLY" | "MASTERDOWN" | "LOADING" | "CLUSTERDOWN" | "MOVED" | "ASK" | "TRYAGAIN") => {
                Self::NoMaster(error)
            }
            _ => Self::Error(error),
        }
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};

        // The error's code and text are the server's; arguments are not in them.
        match error.kind() {
            _ if error.is_timeout() => Self::Slow,
            ErrorKind::Server(ReadOnly | MasterDown | BusyLoading | ClusterDown | Moved | Ask | TryAgain) => {
                Self::NoMaster(error.to_string())
            }
            _ if error.code().is_some() => Self::Error(error.to_string()),
            ErrorKind::UnexpectedReturnType => Self::Error(error.to_string()),
            _ => Self::Gone(error.to_string()),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full => Self::NotSent("too much is under way to Redis".into()),
            Fault::Slow => Self::NoAnswer("Redis took too long".into()),
            // Whether it had been sent before the connection went is not known.
            Fault::Gone(reason) => Self::NoAnswer(reason),
            Fault::NoMaster(reason) | Fault::Error(reason) => Self::Refused(reason),
        }
    }
}
