use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    browser::Browser,
    error::{PageError, sentence},
    form::Form,
    layout::Layout,
    template::HtmlPage,
};
use crate::{
    accounts::{AccountsError, Password, Secret, SignUpLink},
    app::App,
    limits::LimitedAction,
};

#[derive(Template)]
#[template(path = "link.html")]
struct LinkPage {
    layout: Layout,
    csrf: String,
    action: String,
    /// Set when the user cannot choose the address.
    email: Option<String>,
    typed_email: String,
    is_invitation: bool,
    form_error: String,
}

#[derive(Deserialize)]
pub(super) struct LinkForm {
    #[serde(default)]
    email: String,
    password: String,
}

/// `GET /account/link/{secret}`: the form of an invitation or of a password reset.
pub(super) async fn link(
    State(app): State<Arc<App>>,
    browser: Browser,
    Path(secret): Path<String>,
) -> Result<Response, PageError> {
    let (secret, link) = find(&app, &browser, &secret).await?;
    Ok(render(&browser, &secret, link, String::new(), String::new()))
}

/// `POST /account/link/{secret}`: sets the password and invalidates the link.
pub(super) async fn use_link(
    State(app): State<Arc<App>>,
    Path(secret): Path<String>,
    Form { by: browser, fields }: Form<Browser, LinkForm>,
) -> Result<Response, PageError> {
    let (secret, link) = find(&app, &browser, &secret).await?;
    let typed = fields.email.trim().to_owned();
    let after = if matches!(link, SignUpLink::Reset(_)) { "password" } else { "sign-up" };
    match app.database.use_link(&secret, &typed, Password::typed(&fields.password)).await {
        Ok(true) => Ok(Redirect::to(&format!("/account/sign-in?after={after}")).into_response()),
        Ok(false) => Err(invalid_link()),
        Err(error @ (AccountsError::Email(_) | AccountsError::Password(_))) => {
            Ok((StatusCode::BAD_REQUEST, render(&browser, &secret, link, typed, sentence(&error))).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

async fn find(app: &App, browser: &Browser, secret: &str) -> Result<(Secret, SignUpLink), PageError> {
    if let Some(address) = browser.address
        && let Some(wait) = app.action_rates.count(LimitedAction::LinkFrom(address)).await?
    {
        return Err(PageError::too_many(wait));
    }
    let secret = Secret::parse(secret).ok_or_else(invalid_link)?;
    let link = app.database.find_link(&secret).await?.ok_or_else(invalid_link)?;
    Ok((secret, link))
}

fn invalid_link() -> PageError {
    PageError::not_found("This link was used already or has expired. Ask the operator of this server for a new one.")
}

fn render(browser: &Browser, secret: &Secret, link: SignUpLink, typed_email: String, form_error: String) -> Response {
    let (email, is_invitation) = match link {
        SignUpLink::Reset(account) => (Some(account.email), false),
        SignUpLink::Invitation { email, .. } => (email, true),
    };
    let page = LinkPage {
        layout: Layout::signed_out(if is_invitation { "Create account" } else { "Reset password" }),
        csrf: browser.csrf_without_session().reveal().to_owned(),
        action: format!("/account/link/{}", secret.reveal()),
        email,
        typed_email,
        is_invitation,
        form_error,
    };
    (browser.browser_cookie(), HtmlPage(page)).into_response()
}
