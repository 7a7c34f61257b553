//! One connection to Redis that pipelines commands: it sends them without waiting for replies,
//! which arrive in the same order. Commands and replies are those of scripts: words of UTF-8, and
//! arrays of words.
//!
//! Why not a general client: with 64 concurrent tasks a script costs 6,200 instructions here, and
//! 20,000 in redis-rs 1.8 (callgrind, `EVALSHA` with 4 keys and 7 arguments). That is a quarter of
//! the instructions of a whole request to the lock service.
//!
//! The caller opens and authenticates the stream, checks the server that answers, and opens another
//! connection when one ends.

mod decode;
mod driver;
mod encode;
mod header;
mod queue;
mod reply;

use std::{future::Future, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{driver::Driver, queue::CommandQueue};

pub use self::{
    decode::Value,
    reply::{BadReply, Reply},
};

/// Sends commands. Dropping it closes the connection.
pub struct Pipeline {
    queue: Arc<CommandQueue>,
}

/// Why a command got no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The command was not sent.
    #[error("too many commands to Redis are pending")]
    QueueFull,
    /// No reply arrived before the deadline. Redis may have run the command, or may run it later.
    #[error("Redis did not reply in time")]
    TimedOut,
    /// The connection ended. Redis may have run the command.
    #[error("{0}")]
    ConnectionLost(String),
}

impl Pipeline {
    /// Takes over the stream, on the current runtime. When the stream ends, all pending commands
    /// fail, then `closed` is cancelled.
    pub fn start<S>(stream: S, closed: CancellationToken) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let queue = Arc::new(CommandQueue::default());
        tokio::spawn(Driver::new(stream, queue.clone(), closed).run());
        Self { queue }
    }

    /// Sends a command of these words at once, and returns the future of its reply, which does not
    /// hold the words.
    ///
    /// # Errors
    /// See [`Error`]. An error reply of Redis is a [`Value::Error`].
    pub fn send<'a>(
        &self,
        words: impl Iterator<Item = &'a str> + Clone,
        deadline: Instant,
    ) -> impl Future<Output = Result<Value, Error>> {
        let pushed = self.queue.push(words, deadline);
        async move { pushed?.await.unwrap_or_else(|_| Err(Error::ConnectionLost("the connection was closed".into()))) }
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

    /// A pipeline, and the server's end of it with a buffer of this size.
    fn pipeline(bytes: usize) -> (Arc<Pipeline>, DuplexStream, CancellationToken) {
        let (ours, theirs) = duplex(bytes);
        let closed = CancellationToken::new();
        (Arc::new(Pipeline::start(ours, closed.clone())), theirs, closed)
    }

    fn send(pipeline: &Arc<Pipeline>, word: &str, ms: u64) -> tokio::task::JoinHandle<Result<Value, Error>> {
        let (pipeline, word) = (pipeline.clone(), word.to_owned());
        let deadline = Instant::now() + Duration::from_millis(ms);
        tokio::spawn(async move { pipeline.send([&*word].into_iter(), deadline).await })
    }

    async fn expect(server: &mut DuplexStream, command: &str) {
        let mut received = vec![0; command.len()];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), command);
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
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

    #[tokio::test(start_paused = true)]
    async fn late_reply_is_dropped() {
        let (pipeline, mut server, closed) = pipeline(1024);
        let begun = Instant::now();
        let late = send(&pipeline, "late", 100);
        let left = send(&pipeline, "left", 900);
        assert!(matches!(late.await.unwrap(), Err(Error::TimedOut)));
        assert_eq!(begun.elapsed().as_millis() / 10, 10);
        left.abort();
        let sooner = send(&pipeline, "sooner", 50);
        assert!(matches!(sooner.await.unwrap(), Err(Error::TimedOut)));
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
                assert!(matches!(answer, Err(Error::ConnectionLost(_))) || last == answers, "{last:?}: {answer:?}");
            }
            assert!(
                matches!(send(&pipeline, "more", 60_000).await.unwrap(), Err(Error::ConnectionLost(_))),
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
        assert!(matches!(asking.block_on(pending).unwrap(), Err(Error::ConnectionLost(_))));
        asking.block_on(closed.cancelled());
    }
}
