use askama::Template;
use axum::{
    extract::Path,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use super::{error::Trouble, layout::Shell, template::Page};
use crate::http::{Explained, explained_problems, not_found};

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    shell: Shell,
    problem: Explained,
}

/// `GET /problems/{slug}`: what a problem's `type` leads to, for browsers as a
/// page and for everybody else as a text.
pub(super) async fn problem(Path(slug): Path<String>, headers: HeaderMap) -> Response {
    let Some(problem) = explained_problems().find(|problem| problem.slug == slug) else {
        return no_page(headers).await;
    };
    if wants_page(&headers) {
        return Page(ProblemPage { shell: Shell::of_reader(problem.title), problem }).into_response();
    }
    let Explained { title, status, explanation, .. } = problem;
    format!("{title} ({status})\n\n{explanation}\n").into_response()
}

/// Whatever no route has.
pub(super) async fn no_page(headers: HeaderMap) -> Response {
    match wants_page(&headers) {
        true => Trouble::not_found("There is no such page.").into_response(),
        false => not_found(),
    }
}

/// Browsers name HTML; `*/*` is what programs say.
fn wants_page(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|field| field.to_str().ok());
    accepted.any(|field| field.contains("text/html"))
}
