use askama::Template;
use axum::{
    extract::Path,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use super::{error::PageError, layout::Layout, template::HtmlPage};
use crate::http::{ProblemExplanation, not_found, problem_explanations};

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    layout: Layout,
    problem: ProblemExplanation,
}

/// `GET /problems/{slug}`: the explanation of a problem type, as HTML for browsers and as
/// plain text for other clients.
pub(super) async fn problem(Path(slug): Path<String>, headers: HeaderMap) -> Response {
    let Some(problem) = problem_explanations().find(|problem| problem.slug == slug) else {
        return no_page(headers).await;
    };
    if wants_page(&headers) {
        return HtmlPage(ProblemPage { layout: Layout::for_documents(problem.title), problem }).into_response();
    }
    let ProblemExplanation { title, status, explanation, .. } = problem;
    format!("{title} ({status})\n\n{explanation}\n").into_response()
}

/// The fallback of unknown paths.
pub(super) async fn no_page(headers: HeaderMap) -> Response {
    match wants_page(&headers) {
        true => PageError::not_found("This page does not exist.").into_response(),
        false => not_found(),
    }
}

/// Browsers accept `text/html` by name; programs send `*/*`.
fn wants_page(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|field| field.to_str().ok());
    accepted.any(|field| field.contains("text/html"))
}
