//! One connection to Redis on which commands are sent one behind the other, and
//! answered in that order.
//!
//! This is the way of the scripts, and so of every request: it saves a sixth of the
//! instructions that a request took by a client for all that Redis can do.

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

use self::{driver::Driver, queue::Queue};
use super::command_error::{Fault, digest, unexpected};
use crate::store::{Reply, Script};

pub(super) use self::decode::Answer;

/// Sends commands, and ends the connection when it is dropped.
pub(super) struct Pipeline {
    queue: Arc<Queue>,
}

impl Pipeline {
    /// Has this stream for its own, on the runtime that this is called in. When it
    /// ends all who wait are told so, and then `gone` is.
    pub(super) fn start<S>(stream: S, gone: CancellationToken) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let queue = Arc::new(Queue::default());
        tokio::spawn(Driver::new(stream, queue.clone(), gone).run());
        Self { queue }
    }

    /// Runs a script under its digest, and sends it whole where the server does not
    /// know it (yet, or any more): that loads and runs it at once, so that it
    /// cannot be forgotten in between.
    pub(super) async fn evaluate(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        deadline: Instant,
    ) -> Result<Reply, Fault> {
        let mut count = itoa::Buffer::new();
        let count = count.format(keys.len());
        let command =
            |name, script| [name, script, &*count].into_iter().chain(keys.iter().copied()).chain(args.iter().copied());
        let mut answer = self.ask(command("EVALSHA", digest(script)), deadline).await?;
        if matches!(&answer, Answer::Refusal(error) if error.starts_with("NOSCRIPT ")) {
            // Boxed: its room would be taken in every request.
            answer = Box::pin(self.ask(command("EVAL", script.source), deadline)).await?;
        }
        match answer {
            Answer::Words(reply) => Ok(reply),
            Answer::Refusal(error) => Err(Fault::refusal(error)),
            Answer::Text(_) | Answer::Other => Err(unexpected()),
        }
    }

    /// Sends a command of these words, at once, and waits for what it is answered, with
    /// no room for the words meanwhile.
    pub(super) fn ask<'a>(
        &self,
        words: impl Iterator<Item = &'a str> + Clone,
        deadline: Instant,
    ) -> impl Future<Output = Result<Answer, Fault>> {
        let pushed = self.queue.push(words, deadline);
        async move { pushed?.await.unwrap_or_else(|_| Err(Fault::Gone("the connection was left".into()))) }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.queue.leave();
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

    /// A pipeline, and the server's end of it, which holds so many bytes.
    fn pipeline(bytes: usize) -> (Arc<Pipeline>, DuplexStream, CancellationToken) {
        let (ours, theirs) = duplex(bytes);
        let gone = CancellationToken::new();
        (Arc::new(Pipeline::start(ours, gone.clone())), theirs, gone)
    }

    fn ask(pipeline: &Arc<Pipeline>, word: &str, ms: u64) -> tokio::task::JoinHandle<Result<Answer, Fault>> {
        let (pipeline, word) = (pipeline.clone(), word.to_owned());
        let deadline = Instant::now() + Duration::from_millis(ms);
        tokio::spawn(async move { pipeline.ask([&*word].into_iter(), deadline).await })
    }

    async fn expect(server: &mut DuplexStream, command: &str) {
        let mut heard = vec![0; command.len()];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), command);
    }

    fn text(text: &str) -> Answer {
        Answer::Text(text.into())
    }

    #[tokio::test]
    async fn commands_go_out_together_and_each_gets_its_answer() {
        let (pipeline, mut server, _gone) = pipeline(1024);
        let asked = ["a", "b", "c"].map(|word| ask(&pipeline, word, 1000));
        tokio::task::yield_now().await;
        let mut heard = [0; 1024];
        let count = server.read(&mut heard).await.unwrap();
        assert_eq!(heard[..count], *b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n*1\r\n$1\r\nc\r\n");
        for piece in ["+fir", "st\r\n+second\r", "\n+third\r\n"] {
            server.write_all(piece.as_bytes()).await.unwrap();
        }
        for (asked, expected) in asked.into_iter().zip(["first", "second", "third"]) {
            assert_eq!(asked.await.unwrap().unwrap(), text(expected));
        }
    }

    #[tokio::test]
    async fn a_long_command_goes_out_as_the_server_takes_it() {
        let (pipeline, mut server, _gone) = pipeline(64);
        let long = "x".repeat(100_000);
        let asked = ask(&pipeline, &long, 10_000);
        expect(&mut server, &format!("*1\r\n$100000\r\n{long}\r\n")).await;
        server.write_all(format!("$100000\r\n{long}\r\n").as_bytes()).await.unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), text(&long));
    }

    #[tokio::test]
    async fn a_script_that_the_server_does_not_know_is_sent_whole() {
        let (pipeline, mut server, _gone) = pipeline(1024);
        let evaluate = tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(1);
            let reply = pipeline.evaluate(&SCRIPT, &["key"], &["one", "two"], deadline).await.unwrap();
            let refused = pipeline.evaluate(&SCRIPT, &[], &["secret"], deadline).await.unwrap_err();
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
        let (reply, refused) = evaluate.await.unwrap();
        assert_eq!(reply, ["ok", "3"].into_iter().collect());
        assert!(matches!(refused, Fault::NoMaster(error) if error == "READONLY You can't write."));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_for_nobody() {
        let (pipeline, mut server, gone) = pipeline(1024);
        let begun = Instant::now();
        let late = ask(&pipeline, "late", 100);
        let left = ask(&pipeline, "left", 900);
        assert!(matches!(late.await.unwrap(), Err(Fault::Slow)));
        assert_eq!(begun.elapsed().as_millis() / 10, 10);
        left.abort();
        let sooner = ask(&pipeline, "sooner", 50);
        assert!(matches!(sooner.await.unwrap(), Err(Fault::Slow)));
        assert_eq!(begun.elapsed().as_millis() / 10, 15);

        let asked = ask(&pipeline, "next", 900);
        server.write_all(b"+late\r\n+left\r\n+sooner\r\n+next\r\n").await.unwrap();
        // Given when all was sent, and so after it was asked.
        assert_eq!(asked.await.unwrap().unwrap(), text("next"));
        assert!(!gone.is_cancelled());
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_told_to_all() {
        let answers = "+one\r\n+two\r\n+three\r\n";
        for (last, is_closed) in [("", true), ("+half", true), ("HTTP/1.1 400\r\n", false), (answers, false)] {
            let (pipeline, mut server, gone) = pipeline(1024);
            let asked = ["one", "two"].map(|word| ask(&pipeline, word, 60_000));
            expect(&mut server, "*1\r\n$3\r\none\r\n*1\r\n$3\r\ntwo\r\n").await;
            server.write_all(last.as_bytes()).await.unwrap();
            // What is no answer, or nobody's, ends a connection that stays open.
            let _open = (!is_closed).then_some(server);
            gone.cancelled().await;
            for asked in asked {
                let answer = asked.await.unwrap();
                assert!(matches!(answer, Err(Fault::Gone(_))) || last == answers, "{last:?}: {answer:?}");
            }
            assert!(matches!(ask(&pipeline, "more", 60_000).await.unwrap(), Err(Fault::Gone(_))), "{last:?}");
        }
        // Also where nobody waits.
        let (_pipeline, server, gone) = pipeline(1024);
        drop(server);
        gone.cancelled().await;
    }

    #[tokio::test]
    async fn a_pipeline_that_is_dropped_leaves_the_server() {
        let (pipeline, mut server, gone) = pipeline(1024);
        drop(pipeline);
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        gone.cancelled().await;
    }

    #[test]
    fn nobody_waits_for_a_runtime_that_has_ended() {
        let driving = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let asking = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (pipeline, _server, gone) = driving.block_on(async { pipeline(1024) });
        let asked = {
            let _inside = asking.enter();
            ask(&pipeline, "word", 60_000)
        };
        asking.block_on(tokio::task::yield_now());
        driving.shutdown_background();
        assert!(matches!(asking.block_on(asked).unwrap(), Err(Fault::Gone(_))));
        asking.block_on(gone.cancelled());
    }
}
