//! Rejects request targets with a fragment. The `http` crate drops fragments, so that
//! `/v1/acquire/a#b` would acquire `a`. This module replaces the `#` by a byte that no target may
//! contain, and hyper returns 400.

use std::{
    io::{self, BufRead},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::timeouts::RequestCounter;

/// hyper rejects control characters in a request target.
const NOT_IN_TARGETS: u8 = 0;

/// Follows the requests of a connection, and hands hyper at most one head per read: where the next one
/// begins is known only when hyper has parsed the length of the body.
#[derive(Default)]
pub(super) struct RequestHeads {
    position: Position,
    /// Whether the current line has begun, apart from its line end.
    is_in_line: bool,
    /// The bytes behind the head that hyper has not read yet.
    held_back: Vec<u8>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Default)]
enum Position {
    #[default]
    RequestLine,
    Fields,
    /// Whatever follows the head that ended at this value of the request counter.
    AfterHead(u64),
    /// The remaining bytes of a body.
    Body(u64),
    /// A body without a length. The server closes the connection after its answer.
    LastBody,
}

impl RequestHeads {
    /// Reads from the stream into an empty or partly filled buffer.
    pub(super) fn poll_read(
        &mut self,
        stream: impl AsyncRead + Unpin,
        requests: &RequestCounter,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Position::AfterHead(count) = self.position {
            self.position = match requests.body_bytes() {
                // hyper does not count the head as complete.
                _ if requests.count() == count => Position::RequestLine,
                Some(0) => Position::RequestLine,
                Some(bytes) => Position::Body(bytes),
                None => Position::LastBody,
            };
        }
        let filled = buf.filled().len();
        if self.held_back.is_empty() {
            let mut stream = stream;
            ready!(Pin::new(&mut stream).poll_read(cx, buf))?;
        } else {
            let mut bytes = std::mem::take(&mut self.held_back);
            self.held_back = bytes.split_off(bytes.len().min(buf.remaining()));
            buf.put_slice(&bytes);
        }
        let (_, read) = buf.filled_mut().split_at_mut_checked(filled).unwrap_or_default();
        let accepted = self.accept(read, requests.count());
        if let Some((_, rest)) = read.split_at_checked(accepted).filter(|(_, rest)| !rest.is_empty()) {
            self.held_back.splice(..0, rest.iter().copied());
            buf.set_filled(filled + accepted);
        }
        Poll::Ready(Ok(()))
    }

    /// Returns how many of the bytes hyper may read now: at least one, unless there is none.
    fn accept(&mut self, bytes: &mut [u8], count: u64) -> usize {
        match self.position {
            Position::RequestLine | Position::Fields | Position::AfterHead(_) => self.accept_head(bytes, count),
            Position::Body(left) => {
                let accepted = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.position = match left.saturating_sub(accepted as u64) {
                    0 => Position::RequestLine,
                    left => Position::Body(left),
                };
                accepted
            }
            Position::LastBody => bytes.len(),
        }
    }

    fn accept_head(&mut self, bytes: &mut [u8], count: u64) -> usize {
        let length = bytes.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            // The fastest search for a byte in the standard library.
            let line_length = (&*rest).skip_until(b'\n').unwrap_or(rest.len());
            let Some((line, behind)) = rest.split_at_mut_checked(line_length) else { break };
            rest = behind;
            let has_content = self.is_in_line || line.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
            let is_complete = line.ends_with(b"\n");
            self.is_in_line = has_content && !is_complete;
            match self.position {
                Position::Fields if is_complete && !has_content => {
                    self.position = Position::AfterHead(count);
                    return length - rest.len();
                }
                Position::Fields => {}
                _ => {
                    line.iter_mut().filter(|byte| **byte == b'#').for_each(|byte| *byte = NOT_IN_TARGETS);
                    if is_complete && has_content {
                        self.position = Position::Fields;
                    }
                }
            }
        }
        length
    }
}
