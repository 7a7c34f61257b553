use std::time::Duration;

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{layout::Layout, template::HtmlPage};
use crate::{
    accounts::AccountsError, app::BreakError, http::Problem, limits::PerKeyAcquireError, locks::LocksError,
    store::StoreError,
};

/// The error page of a request.
#[derive(Debug)]
pub(super) struct PageError {
    status: StatusCode,
    title: &'static str,
    text: String,
    retry_after: Option<Duration>,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    layout: Layout,
    text: String,
}

impl PageError {
    fn new(status: StatusCode, title: &'static str, text: impl Into<String>) -> Self {
        Self { status, title, text: text.into(), retry_after: None }
    }

    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Invalid request", text)
    }

    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Not allowed", text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", text)
    }

    /// A form whose CSRF token does not belong to the browser.
    pub(super) fn invalid_csrf() -> Self {
        let text = "This form was not made for this browser, or it has expired. Nothing was changed. Go back, reload \
                    the page and submit the form again. If the error persists, allow cookies for this site and open \
                    it over HTTPS.";
        Self::new(StatusCode::FORBIDDEN, "Form expired", text)
    }

    pub(super) fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let text = format!("Too many attempts. Try again in {}.", super::time::format_duration(seconds));
        Self { retry_after: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests", text) }
    }

    /// The browser's IP address has too many concurrent page requests.
    pub(super) fn too_concurrent(_: PerKeyAcquireError) -> Self {
        Self::unavailable("Too many concurrent requests from your IP address. Try again in a moment.")
    }

    /// The account has too many concurrent page requests.
    pub(super) fn too_concurrent_for_account(_: PerKeyAcquireError) -> Self {
        Self::unavailable("Too many concurrent requests for this account. Try again in a moment.")
    }

    fn unavailable(text: &str) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable", text);
        Self { retry_after: Some(Duration::from_secs(1)), ..error }
    }
}

impl From<AccountsError> for PageError {
    fn from(error: AccountsError) -> Self {
        match error {
            AccountsError::NotFound { .. } => Self::not_found(sentence(&error)),
            AccountsError::Exists { .. }
            | AccountsError::Email(_)
            | AccountsError::Password(_)
            | AccountsError::Lease { .. }
            | AccountsError::NoPrivateNamespaces(_)
            | AccountsError::Namespace(_)
            | AccountsError::TooMany { .. }
            | AccountsError::TooManyTokens { .. }
            | AccountsError::TooManyExpiring { .. }
            | AccountsError::InUse { .. } => Self::malformed(sentence(&error)),
            AccountsError::SessionEnded | AccountsError::Suspended => Self::forbidden(sentence(&error)),
            _ => {
                tracing::warn!(%error, "cannot serve a page: the account database failed");
                Self::unavailable("The account database did not respond in time. No data is lost. Try again.")
            }
        }
    }
}

impl From<LocksError> for PageError {
    fn from(error: LocksError) -> Self {
        tracing::debug!(%error, "cannot serve a page: the lock store failed");
        Self::unavailable("The lock store did not respond in time. No data is lost. Try again.")
    }
}

impl From<BreakError> for PageError {
    fn from(error: BreakError) -> Self {
        match error {
            BreakError::Accounts(error) => error.into(),
            BreakError::Locks(error) => error.into(),
            BreakError::TooOften { retry_after } => Self::too_many(retry_after),
            BreakError::Ended => Self::from(Problem::internal()),
        }
    }
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        LocksError::from(error).into()
    }
}

impl From<Problem> for PageError {
    fn from(problem: Problem) -> Self {
        Self { retry_after: problem.wait(), ..Self::new(problem.status(), problem.title(), problem.detail()) }
    }
}

/// Formats an error as a sentence: capital first, full stop at the end.
pub(super) fn sentence(error: &impl ToString) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", chars.as_str())
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let page = ErrorPage { layout: Layout::signed_out(self.title), text: self.text };
        let mut response = (self.status, HtmlPage(page)).into_response();
        if let Some(wait) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64));
        }
        response
    }
}
