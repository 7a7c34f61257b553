use std::future::Future;

use axum::{Router, http::Request, response::Response};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::Connection;

/// Serves the requests of connections.
pub trait Service: Send + Sync + 'static {
    fn answer(&self, request: Request<Incoming>, connection: &Connection) -> impl Future<Output = Response> + Send;
}

/// A router gets the connection as an extension of the request.
impl Service for Router {
    async fn answer(&self, mut request: Request<Incoming>, connection: &Connection) -> Response {
        request.extensions_mut().insert(connection.clone());
        match self.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
