//! Pages are made on a thread of their own: what takes a while there, such as a long
//! list, holds up no heartbeat.

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

/// Makes the page that is asked for on the thread for pages.
pub(super) async fn aside(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let making = app.page.runtime.spawn(next.run(request).in_current_span());
    match AbortOnDropHandle::new(making).await {
        Ok(response) => response,
        // The layers around this one answer and count it.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Problem::internal().into_response(),
        },
    }
}

/// Makes the parts of an answer on the thread for pages, from where this is called, one
/// ahead of what the client has taken. It ends when the client has gone.
pub(super) fn parts<T, F, M>(make: M) -> impl Stream<Item = T> + use<T, F, M>
where
    T: Send + 'static,
    M: FnOnce(mpsc::Sender<T>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (parts, mut made) = mpsc::channel(1);
    let taken = parts.clone();
    let making = make(parts);
    let making = async move {
        tokio::select! {
            () = making => {}
            () = taken.closed() => {}
        }
    };
    tokio::spawn(making.in_current_span());
    stream::poll_fn(move |cx| made.poll_recv(cx))
}
