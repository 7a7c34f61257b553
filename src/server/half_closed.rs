//! Clients that close their sending side before the answer. HTTP allows it, but a client that has
//! disconnected looks the same until the server sends bytes: the client's system then resets the
//! connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, HttpBody as _, to_bytes},
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    response::Response,
};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Sleep, sleep};

use super::timeouts::InFlightRequest;
use crate::{http::Connection, locks::PendingRevert};

/// Limits the time of a handler whose client has closed its sending side.
pub(super) struct HalfClosedTimeout<'a> {
    client: &'a Connection,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> HalfClosedTimeout<'a> {
    pub(super) fn new(client: &'a Connection, timeout: Duration) -> Self {
        Self { client, timeout, timer: None }
    }

    /// Ready with an error when the time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.timer.is_none() && self.client.poll_half_closed(cx).is_pending() {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        let error = || io::Error::new(io::ErrorKind::TimedOut, "the client closed its sending side");
        timer.as_mut().poll(cx).map(|()| error())
    }
}

/// Prepares an answer for a client that may have disconnected.
pub(super) fn finish(answer: Response, client: &Connection, in_flight: InFlightRequest) -> Response {
    match client.take_unconfirmed_grant() {
        Some(revert) => withhold_body(answer, client.clone(), revert, in_flight),
        // Only a live page has a body without a length and an end.
        None if answer.body().size_hint().exact().is_none() && is_live(&answer) => end_with_client(answer, client),
        None => answer,
    }
}

/// Sends the head of an answer, and its body only if the client does not reset the connection: a
/// client without the body does not rely on the grant, which can still be reverted. A revert after
/// the body could take a lock from a holder.
fn withhold_body(answer: Response, client: Connection, revert: PendingRevert, in_flight: InFlightRequest) -> Response {
    let (mut parts, body) = answer.into_parts();
    if let Some(bytes) = body.size_hint().exact() {
        parts.headers.insert(CONTENT_LENGTH, bytes.into());
    }
    let withheld = async move {
        // The connection must not be evicted as idle.
        let _in_flight = in_flight;
        client.expect_no_reset().await?;
        let bytes = to_bytes(body, usize::MAX).await?;
        revert.cancel();
        Ok::<_, BoxError>(bytes)
    };
    Response::from_parts(parts, Body::from_stream(stream::once(withheld)))
}

fn is_live(answer: &Response) -> bool {
    answer.headers().get(CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(b"text/event-stream"))
}

/// Ends the body when the client closes its sending side, which browsers do only when they disconnect.
fn end_with_client(answer: Response, client: &Connection) -> Response {
    let client = client.clone();
    let closed = Box::pin(async move { client.client_closed().await });
    answer.map(|body| Body::from_stream(body.into_data_stream().take_until(closed)))
}
