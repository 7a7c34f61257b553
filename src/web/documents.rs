use std::sync::LazyLock;

use askama::Template;
use axum::{
    extract::Path,
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use super::{
    layout::Shell,
    markdown::{Rendered, render},
    problems::no_page,
    template::Page,
};
use crate::http::{Explained, explained_problems};

/// A document for users. It stands in the program as it stands in the repository.
struct Document {
    /// Behind `/docs/`.
    slug: &'static str,
    /// Below the folder `docs`.
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
            rendered: LazyLock::new(|| render(include_str!(concat!("../../docs/", $file)), address)),
        }),*]
    };
}

static DOCUMENTS: [Document; 9] = documents! {
    "https-endpoints" "https-endpoints.md" "The three calls: acquire, heartbeat, release"
    "guide" "../README.md" "All of it: waiting, owners, the command line, Terraform"
    "run" "run.md" "A command under a lock: how it ends, signals, differences from flock"
    "fencing" "fencing.md" "How a resource turns away who has lost the lock"
    "safety" "safety.md" "What is promised, what is not, and what happens when"
    "ci" "ci/README.md" "Lines for GitHub Actions, GitLab CI, Jenkins, Buildkite and cron"
    "operations" "operations.md" "Running it: sizing, Redis, upgrades, alerts"
    "performance" "performance.md" "How fast it is, how that was measured, where it ends"
    "security" "security.md" "What defends it against whom"
};

macro_rules! pipelines {
    ($($file:literal)*) => { [$(($file, include_str!(concat!("../../docs/ci/", $file)))),*] };
}

static PIPELINES: [(&str, &str); 6] =
    pipelines! { "github-actions.yml" "gitlab-ci.yml" "Jenkinsfile" "buildkite.yml" "crontab" "lockable.sh" };

#[derive(Template)]
#[template(path = "documents.html")]
struct DocumentsPage {
    shell: Shell,
    documents: &'static [Document],
    problems: Vec<Explained>,
}

#[derive(Template)]
#[template(path = "document.html")]
struct DocumentPage {
    shell: Shell,
    html: &'static str,
}

/// `GET /docs`: all of them, the three calls first.
pub(super) async fn documents() -> Response {
    let problems = explained_problems().collect();
    Page(DocumentsPage { shell: Shell::of_reader("Documents"), documents: &DOCUMENTS, problems }).into_response()
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

/// `GET /docs/ci/{file}`: as it is to be copied.
pub(super) async fn pipeline(Path(file): Path<String>, headers: HeaderMap) -> Response {
    match PIPELINES.iter().find(|(name, _)| *name == file) {
        Some((_, text)) => text.into_response(),
        None => no_page(headers).await,
    }
}

fn show(document: &'static Document) -> Response {
    let Rendered { title, html } = &*document.rendered;
    Page(DocumentPage { shell: Shell::of_reader(title), html }).into_response()
}

/// Where a file is here to which a document has a link.
fn address(link: &str) -> Option<String> {
    let plain = link.trim_start_matches("../").trim_start_matches("docs/");
    if PIPELINES.iter().any(|(file, _)| *file == plain || plain.strip_prefix("ci/") == Some(file)) {
        return Some(format!("/docs/ci/{}", plain.trim_start_matches("ci/")));
    }
    let is_meant = |document: &&Document| document.file.trim_start_matches("../") == plain || document.slug == plain;
    let found = DOCUMENTS.iter().find(is_meant)?;
    Some(format!("/docs/{}", found.slug))
}
