use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    browser::Visitor,
    error::{Trouble, sentence},
    form::Form,
    layout::Shell,
    template::Page,
};
use crate::{
    accounts::{AccountsError, Link, Password, Secret},
    app::App,
    limits::Attempt,
};

#[derive(Template)]
#[template(path = "link.html")]
struct LinkPage {
    shell: Shell,
    csrf: String,
    address: String,
    /// Set when it is not to be chosen.
    email: Option<String>,
    typed_email: String,
    is_invitation: bool,
    complaint: String,
}

#[derive(Deserialize)]
pub(super) struct Chosen {
    #[serde(default)]
    email: String,
    password: String,
}

/// `GET /account/link/{secret}`: an invitation, or a way to a new password.
pub(super) async fn link(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Path(secret): Path<String>,
) -> Result<Response, Trouble> {
    let (secret, link) = find(&app, &visitor, &secret).await?;
    Ok(page(&visitor, &secret, link, String::new(), String::new()))
}

/// `POST /account/link/{secret}`: uses it up.
pub(super) async fn use_link(
    State(app): State<Arc<App>>,
    Path(secret): Path<String>,
    Form { by: visitor, fields }: Form<Visitor, Chosen>,
) -> Result<Response, Trouble> {
    let (secret, link) = find(&app, &visitor, &secret).await?;
    let typed = fields.email.trim().to_owned();
    let after = if matches!(link, Link::Reset(_)) { "password" } else { "sign-up" };
    match app.database.use_link(&secret, &typed, Password::typed(&fields.password)).await {
        Ok(true) => Ok(Redirect::to(&format!("/account/sign-in?after={after}")).into_response()),
        Ok(false) => Err(gone()),
        Err(error @ (AccountsError::Email(_) | AccountsError::Password(_))) => {
            Ok((StatusCode::BAD_REQUEST, page(&visitor, &secret, link, typed, sentence(&error))).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

async fn find(app: &App, visitor: &Visitor, secret: &str) -> Result<(Secret, Link), Trouble> {
    if let Some(address) = visitor.address
        && let Some(wait) = app.attempts.refusal(Attempt::LinkFrom(address)).await?
    {
        return Err(Trouble::too_many(wait));
    }
    let secret = Secret::parse(secret).ok_or_else(gone)?;
    let link = app.database.find_link(&secret).await?.ok_or_else(gone)?;
    Ok((secret, link))
}

fn gone() -> Trouble {
    Trouble::not_found("This link has been used, or it is too old. Ask whoever runs this server for another.")
}

fn page(visitor: &Visitor, secret: &Secret, link: Link, typed_email: String, complaint: String) -> Response {
    let (email, is_invitation) = match link {
        Link::Reset(account) => (Some(account.email), false),
        Link::Invitation { email, .. } => (email, true),
    };
    let page = LinkPage {
        shell: Shell::of_anybody(if is_invitation { "Make your account" } else { "Choose a new password" }),
        csrf: visitor.csrf_without_session().reveal().to_owned(),
        address: format!("/account/link/{}", secret.reveal()),
        email,
        typed_email,
        is_invitation,
        complaint,
    };
    (visitor.remembered(), Page(page)).into_response()
}
