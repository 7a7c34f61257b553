use lockable_resp::{Pipeline, Value};
use redis::{RedisError, aio::ConnectionLike};
use tokio::time::Instant;

use super::command_error::CommandError;
use crate::store::{Reply, Script};

/// The command that runs a script.
#[derive(Clone, Copy)]
pub(super) struct EvalCommand<'a> {
    /// `EVALSHA` or `EVAL`.
    name: &'static str,
    /// The script's digest or source.
    script: &'a str,
    key_count: &'a str,
    keys: &'a [&'a str],
    args: &'a [&'a str],
}

impl<'a> EvalCommand<'a> {
    fn words(self) -> impl Iterator<Item = &'a str> + Clone {
        let words = self.keys.iter().copied().chain(self.args.iter().copied());
        [self.name, self.script, self.key_count].into_iter().chain(words)
    }
}

/// A connection that scripts run on.
pub(super) trait ScriptConnection {
    /// Sends the command.
    ///
    /// # Errors
    /// When no reply arrives. An error reply of Redis is a [`Value::Error`].
    fn send(&mut self, command: EvalCommand<'_>) -> impl Future<Output = Result<Value, CommandError>> + Send;
}

/// A shared connection, and the deadline of the command.
impl ScriptConnection for (&Pipeline, Instant) {
    fn send(&mut self, command: EvalCommand<'_>) -> impl Future<Output = Result<Value, CommandError>> + Send {
        let reply = self.0.send(command.words(), self.1);
        async { Ok(reply.await?) }
    }
}

/// A connection of the general client. The caller limits the time.
pub(super) struct GeneralConnection<'a, C>(pub(super) &'a mut C);

impl<C: ConnectionLike + Send> ScriptConnection for GeneralConnection<'_, C> {
    async fn send(&mut self, command: EvalCommand<'_>) -> Result<Value, CommandError> {
        let mut packed = redis::cmd(command.name);
        packed.arg(command.script).arg(command.key_count).arg(command.keys).arg(command.args);
        self.run(&packed).await
    }
}

impl<C: ConnectionLike> GeneralConnection<'_, C> {
    /// Runs any command.
    ///
    /// # Errors
    /// When no reply arrives. An error reply of Redis is a [`Value::Error`].
    pub(super) async fn run(&mut self, command: &redis::Cmd) -> Result<Value, CommandError> {
        match self.0.req_packed_command(command).await {
            Ok(value) => Ok(convert(value)),
            Err(error) => error_reply(&error).map(Value::Error).ok_or_else(|| connection_error(&error)),
        }
    }
}

/// Runs a script by its digest, and by its source if the server does not have it in its cache.
/// `EVAL` loads and runs a script in one step, so that the server cannot evict it in between.
pub(super) async fn eval(
    connection: &mut impl ScriptConnection,
    script: &'static Script,
    keys: &[&str],
    args: &[&str],
) -> Result<Reply, CommandError> {
    let mut count = itoa::Buffer::new();
    let key_count = count.format(keys.len());
    let command = EvalCommand { name: "EVALSHA", script: digest(script), key_count, keys, args };
    let mut answer = connection.send(command).await?;
    if matches!(&answer, Value::Error(error) if error.starts_with("NOSCRIPT ")) {
        // Boxed, so that the futures of other requests stay small.
        let command = EvalCommand { name: "EVAL", script: script.source, ..command };
        answer = Box::pin(connection.send(command)).await?;
    }
    match answer {
        Value::Array(reply) => Ok(reply),
        Value::Error(error) => Err(CommandError::from_reply(error)),
        Value::Text(_) | Value::Other => {
            Err(CommandError::Other("a script returned something other than an array of words".into()))
        }
    }
}

/// The SHA-1 digest of a script, for `EVALSHA`.
fn digest(script: &'static Script) -> &'static str {
    script.digest(|source| redis::Script::new(source).get_hash().to_owned())
}

/// The text of an error reply: its code, followed by its message. `None` for any other error.
fn error_reply(error: &RedisError) -> Option<String> {
    let code = error.code()?;
    Some([code, error.detail().unwrap_or_default()].join(" "))
}

fn connection_error(error: &RedisError) -> CommandError {
    match error.is_timeout() {
        true => CommandError::TimedOut,
        false => CommandError::ConnectionLost(error.to_string()),
    }
}

/// Converts a reply to the form of the shared connections.
fn convert(value: redis::Value) -> Value {
    match value {
        redis::Value::Array(values) => {
            let mut reply = Reply::default();
            for value in values {
                match value {
                    redis::Value::BulkString(bytes) => match str::from_utf8(&bytes) {
                        Ok(word) => reply.push(word),
                        Err(_) => return Value::Other,
                    },
                    redis::Value::Int(number) => reply.push(itoa::Buffer::new().format(number)),
                    _ => return Value::Other,
                }
            }
            Value::Array(reply)
        }
        redis::Value::Int(number) => Value::Text(number.to_string()),
        redis::Value::ServerError(error) => Value::Error([error.code(), error.details().unwrap_or_default()].join(" ")),
        _ => Value::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_util::sync::CancellationToken;

    use super::*;

    static SCRIPT: Script = Script::new("test", "return {}");

    async fn expect(server: &mut DuplexStream, command: &str) {
        let mut received = vec![0; command.len()];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), command);
    }

    #[tokio::test]
    async fn unknown_script_is_resent_with_its_source() {
        let (stream, mut server) = duplex(1024);
        let pipeline = Pipeline::start(stream, CancellationToken::new());
        let running = tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(1);
            let reply = eval(&mut (&pipeline, deadline), &SCRIPT, &["key"], &["one", "two"]).await.unwrap();
            let refused = eval(&mut (&pipeline, deadline), &SCRIPT, &[], &["secret"]).await.unwrap_err();
            (reply, refused)
        });
        let rest = "$1\r\n1\r\n$3\r\nkey\r\n$3\r\none\r\n$3\r\ntwo\r\n";
        let digest = digest(&SCRIPT);
        expect(&mut server, &format!("*6\r\n$7\r\nEVALSHA\r\n$40\r\n{digest}\r\n{rest}")).await;
        server.write_all(b"-NOSCRIPT No matching script.\r\n").await.unwrap();
        expect(&mut server, &format!("*6\r\n$4\r\nEVAL\r\n$9\r\nreturn {{}}\r\n{rest}")).await;
        server.write_all(b"*2\r\n$2\r\nok\r\n:3\r\n").await.unwrap();
        expect(&mut server, "*4\r\n").await;
        server.write_all(b"-READONLY You can't write.\r\n").await.unwrap();
        let (reply, refused) = running.await.unwrap();
        assert_eq!(reply, ["ok", "3"].into_iter().collect());
        assert!(matches!(refused, CommandError::NotMaster(error) if error == "READONLY You can't write."));
    }
}
