use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    browser::Visitor,
    error::Trouble,
    session::{Member, NoMember},
};
use crate::{accounts::Secret, app::App, http::Body};

/// A form that somebody has sent, and that was made for that browser: no other
/// site can send it in their name.
pub(super) struct Form<By, T> {
    pub by: By,
    pub fields: T,
}

/// In every form.
#[derive(Deserialize)]
struct Guard {
    #[serde(default)]
    csrf: String,
}

/// Who may send a form.
pub(super) trait Sender: FromRequestParts<Arc<App>> + Send {
    fn csrf(&self) -> Secret;
}

impl Sender for Member {
    fn csrf(&self) -> Secret {
        self.visitor.csrf()
    }
}

impl Sender for Visitor {
    fn csrf(&self) -> Secret {
        self.csrf_without_session()
    }
}

/// Why a form is not heeded.
pub(super) enum Refused<R> {
    Sender(R),
    Trouble(Trouble),
}

impl<By: Sender, T: DeserializeOwned> FromRequest<Arc<App>> for Form<By, T> {
    type Rejection = Refused<By::Rejection>;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let (mut parts, body) = request.into_parts();
        let by = By::from_request_parts(&mut parts, app).await.map_err(Refused::Sender)?;
        let body = Body::from_request(Request::from_parts(parts, body), app).await;
        let Body(text) = body.map_err(|problem| Refused::Trouble(problem.into()))?;
        let read = |text: &str| serde_html_form::from_str::<Guard>(text);
        if !read(&text).is_ok_and(|guard| by.csrf().is(&guard.csrf)) {
            return Err(Refused::Trouble(Trouble::forged()));
        }
        let fields = serde_html_form::from_str(&text);
        let fields = fields.map_err(|error| Refused::Trouble(Trouble::malformed(format!("The form has {error}."))))?;
        Ok(Self { by, fields })
    }
}

impl<R: IntoResponse> IntoResponse for Refused<R> {
    fn into_response(self) -> Response {
        match self {
            Self::Sender(rejection) => rejection.into_response(),
            Self::Trouble(trouble) => trouble.into_response(),
        }
    }
}

impl From<Trouble> for Refused<NoMember> {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}
