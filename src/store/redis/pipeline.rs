//! One connection to Redis that pipelines commands: it sends them without waiting for replies,
//! which arrive in the same order.
//!
//! All scripts use it. Compared with a general Redis client, it saves a sixth of the instructions
//! of a request.

mod decode;
mod driver;
mod encode;
mod header;
mod queue;

use std::{future::Future, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{driver::Driver, queue::CommandQueue};
use super::command_error::{CommandError, digest, unexpected_reply};
use crate::store::{Reply, Script};

pub(super) use self::decode::RespValue;

/// Sends commands. Dropping it closes the connection.
pub(super) struct Pipeline {
    queue: Arc<CommandQueue>,
}

impl Pipeline {
    /// Takes over the stream, on the current runtime. When the stream ends, all pending commands
    /// fail, then `closed` is cancelled.
    pub(super) fn start<S>(stream: S, closed: CancellationToken) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let queue = Arc::new(CommandQueue::default());
        tokio::spawn(Driver::new(stream, queue.clone(), closed).run());
        Self { queue }
    }

    /// Runs a script by its digest, and by its source if the server does not have it in its cache.
    /// `EVAL` loads and runs a script in one step, so that the server cannot evict it in between.
    pub(super) async fn eval(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        deadline: Instant,
    ) -> Result<Reply, CommandError> {
        let mut count = itoa::Buffer::new();
        let count = count.format(keys.len());
        let command =
            |name, script| [name, script, &*count].into_iter().chain(keys.iter().copied()).chain(args.iter().copied());
        let mut answer = self.send(command("EVALSHA", digest(script)), deadline).await?;
        if matches!(&answer, RespValue::Error(error) if error.starts_with("NOSCRIPT ")) {
            // Boxed, so that the futures of other requests stay small.
            answer = Box::pin(self.send(command("EVAL", script.source), deadline)).await?;
        }
        match answer {
            RespValue::Array(reply) => Ok(reply),
            RespValue::Error(error) => Err(CommandError::from_reply(error)),
            RespValue::Text(_) | RespValue::Other => Err(unexpected_reply()),
        }
    }

    /// Sends a command of these words at once, and returns the future of its reply, which does not
    /// hold the words.
    pub(super) fn send<'a>(
        &self,
        words: impl Iterator<Item = &'a str> + Clone,
        deadline: Instant,
    ) -> impl Future<Output = Result<RespValue, CommandError>> {
        let pushed = self.queue.push(words, deadline);
        async move {
            pushed?.await.unwrap_or_else(|_| Err(CommandError::ConnectionLost("the connection was closed".into())))
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        runtime,
    };

    use super::*;

    static SCRIPT: Script = Script::new("test", "return {}");

    /// A pipeline, and the server's end of it with a buffer of this size.
    fn pipeline(bytes: usize) -> (Arc<Pipeline>, DuplexStream, CancellationToken) {
        let (ours, theirs) = duplex(bytes);
        let closed = CancellationToken::new();
        (Arc::new(Pipeline::start(ours, closed.clone())), theirs, closed)
    }

    fn send(pipeline: &Arc<Pipeline>, word: &str, ms: u64) -> tokio::task::JoinHandle<Result<RespValue, CommandError>> {
        let (pipeline, word) = (pipeline.clone(), word.to_owned());
        let deadline = Instant::now() + Duration::from_millis(ms);
        tokio::spawn(async move { pipeline.send([&*word].into_iter(), deadline).await })
    }

    async fn expect(server: &mut DuplexStream, command: &str) {
        let mut received = vec![0; command.len()];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), command);
    }

    fn text(text: &str) -> RespValue {
        RespValue::Text(text.into())
    }

    #[tokio::test]
    async fn commands_are_batched_and_replies_arrive_in_order() {
        let (pipeline, mut server, _gone) = pipeline(1024);
        let pending = ["a", "b", "c"].map(|word| send(&pipeline, word, 1000));
        tokio::task::yield_now().await;
        let mut received = [0; 1024];
        let count = server.read(&mut received).await.unwrap();
        assert_eq!(received[..count], *b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n*1\r\n$1\r\nc\r\n");
        for piece in ["+fir", "st\r\n+second\r", "\n+third\r\n"] {
            server.write_all(piece.as_bytes()).await.unwrap();
        }
        for (pending, expected) in pending.into_iter().zip(["first", "second", "third"]) {
            assert_eq!(pending.await.unwrap().unwrap(), text(expected));
        }
    }

    #[tokio::test]
    async fn long_command_is_sent_in_parts() {
        let (pipeline, mut server, _gone) = pipeline(64);
        let long = "x".repeat(100_000);
        let pending = send(&pipeline, &long, 10_000);
        expect(&mut server, &format!("*1\r\n$100000\r\n{long}\r\n")).await;
        server.write_all(format!("$100000\r\n{long}\r\n").as_bytes()).await.unwrap();
        assert_eq!(pending.await.unwrap().unwrap(), text(&long));
    }

    #[tokio::test]
    async fn unknown_script_is_resent_with_its_source() {
        let (pipeline, mut server, _gone) = pipeline(1024);
        let eval = tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(1);
            let reply = pipeline.eval(&SCRIPT, &["key"], &["one", "two"], deadline).await.unwrap();
            let refused = pipeline.eval(&SCRIPT, &[], &["secret"], deadline).await.unwrap_err();
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
        let (reply, refused) = eval.await.unwrap();
        assert_eq!(reply, ["ok", "3"].into_iter().collect());
        assert!(matches!(refused, CommandError::NotMaster(error) if error == "READONLY You can't write."));
    }

    #[tokio::test(start_paused = true)]
    async fn late_reply_is_dropped() {
        let (pipeline, mut server, closed) = pipeline(1024);
        let begun = Instant::now();
        let late = send(&pipeline, "late", 100);
        let left = send(&pipeline, "left", 900);
        assert!(matches!(late.await.unwrap(), Err(CommandError::TimedOut)));
        assert_eq!(begun.elapsed().as_millis() / 10, 10);
        left.abort();
        let sooner = send(&pipeline, "sooner", 50);
        assert!(matches!(sooner.await.unwrap(), Err(CommandError::TimedOut)));
        assert_eq!(begun.elapsed().as_millis() / 10, 15);

        let pending = send(&pipeline, "next", 900);
        server.write_all(b"+late\r\n+left\r\n+sooner\r\n+next\r\n").await.unwrap();
        // The earlier replies belong to expired commands.
        assert_eq!(pending.await.unwrap().unwrap(), text("next"));
        assert!(!closed.is_cancelled());
    }

    #[tokio::test]
    async fn connection_end_fails_all_pending_commands() {
        let answers = "+one\r\n+two\r\n+three\r\n";
        for (last, is_closed) in [("", true), ("+half", true), ("HTTP/1.1 400\r\n", false), (answers, false)] {
            let (pipeline, mut server, closed) = pipeline(1024);
            let pending = ["one", "two"].map(|word| send(&pipeline, word, 60_000));
            expect(&mut server, "*1\r\n$3\r\none\r\n*1\r\n$3\r\ntwo\r\n").await;
            server.write_all(last.as_bytes()).await.unwrap();
            // An invalid or unexpected reply ends a connection that is still open.
            let _open = (!is_closed).then_some(server);
            closed.cancelled().await;
            for pending in pending {
                let answer = pending.await.unwrap();
                assert!(
                    matches!(answer, Err(CommandError::ConnectionLost(_))) || last == answers,
                    "{last:?}: {answer:?}"
                );
            }
            assert!(
                matches!(send(&pipeline, "more", 60_000).await.unwrap(), Err(CommandError::ConnectionLost(_))),
                "{last:?}"
            );
        }
        // Also without pending commands.
        let (_pipeline, server, closed) = pipeline(1024);
        drop(server);
        closed.cancelled().await;
    }

    #[tokio::test]
    async fn dropped_pipeline_closes_its_connection() {
        let (pipeline, mut server, closed) = pipeline(1024);
        drop(pipeline);
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        closed.cancelled().await;
    }

    #[test]
    fn ended_runtime_fails_pending_commands() {
        let driving = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let asking = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (pipeline, _server, closed) = driving.block_on(async { pipeline(1024) });
        let pending = {
            let _inside = asking.enter();
            send(&pipeline, "word", 60_000)
        };
        asking.block_on(tokio::task::yield_now());
        driving.shutdown_background();
        assert!(matches!(asking.block_on(pending).unwrap(), Err(CommandError::ConnectionLost(_))));
        asking.block_on(closed.cancelled());
    }
}
