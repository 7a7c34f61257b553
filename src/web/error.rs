use std::time::Duration;

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{layout::Shell, template::Page};
use crate::{
    accounts::AccountsError, app::BreakError, http::Problem, limits::NoTurn, locks::LocksError, store::StoreError,
};

/// A page that could not be shown, or a form that was not heeded, and why.
#[derive(Debug)]
pub(super) struct Trouble {
    status: StatusCode,
    title: &'static str,
    text: String,
    retry_after: Option<Duration>,
}

#[derive(Template)]
#[template(path = "error.html")]
struct TroublePage {
    shell: Shell,
    text: String,
}

impl Trouble {
    fn new(status: StatusCode, title: &'static str, text: impl Into<String>) -> Self {
        Self { status, title, text: text.into(), retry_after: None }
    }

    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "That cannot be understood", text)
    }

    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Not allowed", text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", text)
    }

    /// A form that was not made for the browser that sends it.
    pub(super) fn forged() -> Self {
        let text = "This form was not made for this browser, or it is too old. Nothing was done: go back, load the \
                    page again, and send it once more. If that does not help, your browser keeps no cookies of this \
                    site; it takes them by HTTPS only.";
        Self::new(StatusCode::FORBIDDEN, "Please send that again", text)
    }

    pub(super) fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let text = format!("That was tried too often. It works again in {}.", super::time::for_people(seconds));
        Self { retry_after: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "Too often", text) }
    }

    /// Too many of the visitor's address ask at once.
    pub(super) fn no_turn(_: NoTurn) -> Self {
        Self::unavailable("Too many pages are asked for from your address at once. Try again in a moment.")
    }

    /// Too many pages of the account are asked for at once.
    pub(super) fn no_turn_of_account(_: NoTurn) -> Self {
        Self::unavailable("Too many pages of this account are asked for at once. Try again in a moment.")
    }

    fn unavailable(text: &str) -> Self {
        let trouble = Self::new(StatusCode::SERVICE_UNAVAILABLE, "Not now", text);
        Self { retry_after: Some(Duration::from_secs(1)), ..trouble }
    }
}

impl From<AccountsError> for Trouble {
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
            | AccountsError::TooManyEnding { .. }
            | AccountsError::InUse { .. } => Self::malformed(sentence(&error)),
            AccountsError::SessionEnded | AccountsError::Suspended => Self::forbidden(sentence(&error)),
            _ => {
                tracing::warn!(%error, "a page could not be shown");
                Self::unavailable("The account database could not be asked in time. Nothing is lost; try again.")
            }
        }
    }
}

impl From<LocksError> for Trouble {
    fn from(error: LocksError) -> Self {
        tracing::debug!(%error, "a page could not be shown");
        Self::unavailable("The lock store could not be asked in time. Nothing is lost; try again.")
    }
}

impl From<BreakError> for Trouble {
    fn from(error: BreakError) -> Self {
        match error {
            BreakError::Accounts(error) => error.into(),
            BreakError::Locks(error) => error.into(),
            BreakError::TooOften { retry_after } => Self::too_many(retry_after),
            BreakError::Ended => Self::from(Problem::internal()),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        LocksError::from(error).into()
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self { retry_after: problem.wait(), ..Self::new(problem.status(), problem.title(), problem.detail()) }
    }
}

/// An error as people write: it begins with a capital and ends with a full stop.
pub(super) fn sentence(error: &impl ToString) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", chars.as_str())
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let page = TroublePage { shell: Shell::of_anybody(self.title), text: self.text };
        let mut response = (self.status, Page(page)).into_response();
        if let Some(wait) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64));
        }
        response
    }
}
