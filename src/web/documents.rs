use std::sync::LazyLock;

use askama::Template;
use axum::{
    extract::Path,
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use super::{
    layout::Layout,
    markdown::{Rendered, render},
    problems::no_page,
    template::HtmlPage,
};
use crate::http::{ProblemExplanation, problem_explanations};

/// A document, compiled into the program from the repository.
struct Document {
    /// The path below `/docs/`.
    slug: &'static str,
    /// The path below the folder `docs`.
    file: &'static str,
    about: &'static str,
    rendered: LazyLock<Rendered>,
}

macro_rules! documents {
    ($($slug:literal $file:literal $about:literal)*) => {
        [$(Document {
            slug: $slug,
            file: $file,
            about: $about,
            rendered: LazyLock::new(|| render(include_str!(concat!("../../docs/", $file)), site_path)),
        }),*]
    };
}

static DOCUMENTS: [Document; 10] = documents! {
    "https-endpoints" "https-endpoints.md" "API: acquire, heartbeat, release"
    "guide" "../README.md" "Guide: waiting, owners, the command line, Terraform"
    "run" "run.md" "lockable run: exit codes, signals, differences from flock"
    "fencing" "fencing.md" "Fencing tokens: how a resource rejects a former holder"
    "safety" "safety.md" "Safety: guarantees, limits and failures"
    "ci" "ci/README.md" "CI: GitHub Actions, GitLab CI, Jenkins, Buildkite and cron"
    "operations" "operations.md" "Operations: sizing, Redis, upgrades, alerts"
    "performance" "performance.md" "Performance: figures, method and limits"
    "security" "security.md" "Security: threats and defenses"
    "architecture" "architecture.md" "Architecture: glossary"
};

macro_rules! pipelines {
    ($($file:literal)*) => { [$(($file, include_str!(concat!("../../docs/ci/", $file)))),*] };
}

static PIPELINES: [(&str, &str); 6] =
    pipelines! { "github-actions.yml" "gitlab-ci.yml" "Jenkinsfile" "buildkite.yml" "crontab" "lockable.sh" };

#[derive(Template)]
#[template(path = "documents.html")]
struct DocumentsPage {
    layout: Layout,
    documents: &'static [Document],
    problems: Vec<ProblemExplanation>,
}

#[derive(Template)]
#[template(path = "document.html")]
struct DocumentPage {
    layout: Layout,
    html: &'static str,
}

/// `GET /docs`: the list of documents, the API first.
pub(super) async fn documents() -> Response {
    let problems = problem_explanations().collect();
    HtmlPage(DocumentsPage { layout: Layout::for_documents("Documentation"), documents: &DOCUMENTS, problems })
        .into_response()
}

/// `GET /docs/{document}`.
pub(super) async fn document(Path(slug): Path<String>, headers: HeaderMap) -> Response {
    match DOCUMENTS.iter().find(|document| document.slug == slug) {
        Some(document) => show(document),
        None => no_page(headers).await,
    }
}

/// `GET /docs/ci`.
pub(super) async fn pipelines(headers: HeaderMap) -> Response {
    document(Path("ci".into()), headers).await
}

/// `GET /docs/ci/{file}`: an example pipeline as plain text.
pub(super) async fn pipeline(Path(file): Path<String>, headers: HeaderMap) -> Response {
    match PIPELINES.iter().find(|(name, _)| *name == file) {
        Some((_, text)) => text.into_response(),
        None => no_page(headers).await,
    }
}

fn show(document: &'static Document) -> Response {
    let Rendered { title, html } = &*document.rendered;
    HtmlPage(DocumentPage { layout: Layout::for_documents(title), html }).into_response()
}

/// Maps a link between files of the repository to a path of this site.
fn site_path(link: &str) -> Option<String> {
    let plain = link.trim_start_matches("../").trim_start_matches("docs/");
    if PIPELINES.iter().any(|(file, _)| *file == plain || plain.strip_prefix("ci/") == Some(file)) {
        return Some(format!("/docs/ci/{}", plain.trim_start_matches("ci/")));
    }
    let matches = |document: &&Document| document.file.trim_start_matches("../") == plain || document.slug == plain;
    let found = DOCUMENTS.iter().find(matches)?;
    Some(format!("/docs/{}", found.slug))
}
