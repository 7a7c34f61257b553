//! Account pages run on a runtime of their own: a slow page, such as a long list, does not
//! delay a heartbeat.

use std::{future::Future, panic::resume_unwind, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::{app::App, http::Problem};

/// Middleware: runs the request on the page runtime.
pub(super) async fn on_page_runtime(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let task = app.pages.runtime.spawn(next.run(request).in_current_span());
    match AbortOnDropHandle::new(task).await {
        Ok(response) => response,
        // The outer layers turn a panic into a response and count it.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Problem::internal().into_response(),
        },
    }
}

/// Streams the items that `produce` sends. The producer runs as a task on the current (page)
/// runtime, at most one item ahead of the client, and ends when the client disconnects.
pub(super) fn stream_items<T, F, P>(produce: P) -> impl Stream<Item = T> + use<T, F, P>
where
    T: Send + 'static,
    P: FnOnce(mpsc::Sender<T>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(1);
    let disconnected = sender.clone();
    let producing = produce(sender);
    let task = async move {
        tokio::select! {
            () = producing => {}
            () = disconnected.closed() => {}
        }
    };
    tokio::spawn(task.in_current_span());
    stream::poll_fn(move |cx| receiver.poll_recv(cx))
}
