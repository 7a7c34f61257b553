use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    browser::Browser,
    error::PageError,
    session::{SessionRejection, SessionUser},
};
use crate::{accounts::Secret, app::App, http::Body};

/// The fields of a posted form with a valid CSRF token: another site cannot submit it in the
/// user's name.
pub(super) struct Form<By, T> {
    pub by: By,
    pub fields: T,
}

/// A form without fields of its own.
#[derive(Deserialize)]
pub(super) struct EmptyForm {}

/// The hidden field of every form.
#[derive(Deserialize)]
struct CsrfField {
    #[serde(default)]
    csrf: String,
}

/// The sender of a form: a signed-in user, or any browser.
pub(super) trait FormSender: FromRequestParts<Arc<App>> + Send {
    fn csrf(&self) -> Secret;
}

impl FormSender for SessionUser {
    fn csrf(&self) -> Secret {
        self.browser.csrf()
    }
}

impl FormSender for Browser {
    fn csrf(&self) -> Secret {
        self.csrf_without_session()
    }
}

/// Why a form is rejected.
pub(super) enum FormRejection<R> {
    FormSender(R),
    PageError(PageError),
}

impl<By: FormSender, T: DeserializeOwned> FromRequest<Arc<App>> for Form<By, T> {
    type Rejection = FormRejection<By::Rejection>;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let (mut parts, body) = request.into_parts();
        let by = By::from_request_parts(&mut parts, app).await.map_err(FormRejection::FormSender)?;
        let body = Body::from_request(Request::from_parts(parts, body), app).await;
        let Body(text) = body.map_err(|problem| FormRejection::PageError(problem.into()))?;
        let read = |text: &str| serde_html_form::from_str::<CsrfField>(text);
        if !read(&text).is_ok_and(|guard| by.csrf().is(&guard.csrf)) {
            return Err(FormRejection::PageError(PageError::invalid_csrf()));
        }
        let fields = serde_html_form::from_str(&text);
        let fields = fields.map_err(|error| {
            FormRejection::PageError(PageError::malformed(format!("The form is invalid: {error}.")))
        })?;
        Ok(Self { by, fields })
    }
}

impl<R: IntoResponse> IntoResponse for FormRejection<R> {
    fn into_response(self) -> Response {
        match self {
            Self::FormSender(rejection) => rejection.into_response(),
            Self::PageError(error) => error.into_response(),
        }
    }
}

impl From<PageError> for FormRejection<SessionRejection> {
    fn from(error: PageError) -> Self {
        Self::PageError(error)
    }
}
