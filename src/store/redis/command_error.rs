use redis::{ErrorKind, RedisError, ServerErrorKind, Value, aio::ConnectionLike};

use crate::store::{Reply, Script, StoreError};

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CommandError {
    /// The command was not sent: the queue of pending commands is full.
    QueueFull,
    /// No reply arrived in time.
    TimedOut,
    /// The connection ended.
    ConnectionLost(String),
    /// The server does not accept these writes (any longer), on all of its connections.
    NotMaster(String),
    /// The server returned another error.
    Other(String),
}

/// Runs a script by its digest, and by its source if the server does not have it in its cache.
/// `EVAL` loads and runs a script in one step, so that the server cannot evict it in between.
pub(super) async fn eval(
    connection: &mut impl ConnectionLike,
    script: &'static Script,
    keys: &[&str],
    args: &[&str],
) -> Result<Reply, CommandError> {
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

/// The SHA-1 digest of a script, for `EVALSHA`.
pub(super) fn digest(script: &'static Script) -> &'static str {
    script.digest(|source| redis::Script::new(source).get_hash().to_owned())
}

pub(super) fn unexpected_reply() -> CommandError {
    CommandError::Other("a script returned something other than an array of strings".into())
}

fn read_reply(answer: Value) -> Result<Reply, CommandError> {
    let Value::Array(values) = answer else { return Err(unexpected_reply()) };
    let mut reply = Reply::default();
    for value in values {
        match value {
            Value::BulkString(bytes) => reply.push(str::from_utf8(&bytes).map_err(|_| unexpected_reply())?),
            Value::Int(number) => reply.push(&number.to_string()),
            _ => return Err(unexpected_reply()),
        }
    }
    Ok(reply)
}

impl CommandError {
    /// Parses an error reply: a code, followed by a text. Both are the server's own and contain no
    /// arguments.
    pub(super) fn from_reply(error: String) -> Self {
        match error.split(' ').next() {
            Some("READONLY" | "MASTERDOWN" | "LOADING" | "CLUSTERDOWN" | "MOVED" | "ASK" | "TRYAGAIN") => {
                Self::NotMaster(error)
            }
            _ => Self::Other(error),
        }
    }
}

impl From<RedisError> for CommandError {
    fn from(error: RedisError) -> Self {
        use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};

        // The error's code and text are the server's own and contain no arguments.
        match error.kind() {
            _ if error.is_timeout() => Self::TimedOut,
            ErrorKind::Server(ReadOnly | MasterDown | BusyLoading | ClusterDown | Moved | Ask | TryAgain) => {
                Self::NotMaster(error.to_string())
            }
            _ if error.code().is_some() => Self::Other(error.to_string()),
            ErrorKind::UnexpectedReturnType => Self::Other(error.to_string()),
            _ => Self::ConnectionLost(error.to_string()),
        }
    }
}

impl From<CommandError> for StoreError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::QueueFull => Self::NotSent("too many commands to Redis are pending".into()),
            CommandError::TimedOut => Self::NoAnswer("Redis did not reply in time".into()),
            // The command may have been sent before the connection ended.
            CommandError::ConnectionLost(reason) => Self::NoAnswer(reason),
            CommandError::NotMaster(reason) | CommandError::Other(reason) => Self::Refused(reason),
        }
    }
}
