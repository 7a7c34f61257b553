use askama::Template;
use axum::response::{Html, IntoResponse, Response};

use crate::http::Problem;

/// A template as an answer.
pub(super) struct Page<T>(pub T);

impl<T: Template> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        match self.0.render() {
            Ok(html) => Html(html).into_response(),
            Err(error) => {
                tracing::error!(%error, "a page cannot be made");
                Problem::internal().into_response()
            }
        }
    }
}
