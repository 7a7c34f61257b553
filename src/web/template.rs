use askama::Template;
use axum::response::{Html, IntoResponse, Response};

use crate::http::Problem;

/// A template as an HTML response.
pub(super) struct HtmlPage<T>(pub T);

impl<T: Template> IntoResponse for HtmlPage<T> {
    fn into_response(self) -> Response {
        match self.0.render() {
            Ok(html) => Html(html).into_response(),
            Err(error) => {
                tracing::error!(%error, "cannot render a page");
                Problem::internal().into_response()
            }
        }
    }
}
