use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::{
    browser::Browser,
    error::{PageError, sentence},
    form::Form,
    layout::Layout,
    template::HtmlPage,
};
use crate::{
    accounts::{AccountsError, Password},
    app::App,
    limits::LimitedAction,
};

#[derive(Template)]
#[template(path = "sign_up.html")]
struct SignUpPage {
    layout: Layout,
    csrf: String,
    is_open: bool,
    email: String,
    form_error: String,
}

#[derive(Deserialize)]
pub(super) struct SignUpForm {
    email: String,
    password: String,
}

/// Fixed latency of a sign-up: creating an account takes longer than finding that it exists, and
/// the latency must not reveal which of the two happened.
const RESPOND_AFTER: Duration = Duration::from_millis(500);

/// `GET /account/sign-up`.
pub(super) async fn sign_up(State(app): State<Arc<App>>, browser: Browser) -> Response {
    render(&app, &browser, String::new(), String::new())
}

fn render(app: &App, browser: &Browser, email: String, form_error: String) -> Response {
    let page = SignUpPage {
        layout: Layout::signed_out("Sign up"),
        csrf: browser.csrf_without_session().reveal().to_owned(),
        is_open: app.pages.can_sign_up,
        email,
        form_error,
    };
    (browser.browser_cookie(), HtmlPage(page)).into_response()
}

/// `POST /account/sign-up`. The response does not reveal whether the address has an account.
pub(super) async fn create_account(
    State(app): State<Arc<App>>,
    Form { by: browser, fields }: Form<Browser, SignUpForm>,
) -> Result<Response, PageError> {
    if !app.pages.can_sign_up {
        return Err(PageError::forbidden(
            "Sign-up is by invitation only. Ask the operator of this server for an invitation.",
        ));
    }
    let email = fields.email.trim().to_owned();
    if let Some(address) = browser.address
        && let Some(wait) = app.action_rates.count(LimitedAction::SignUpFrom(address)).await?
    {
        return Err(PageError::too_many(wait));
    }
    // Each attempt on an existing account adds a row to that account's audit log.
    if let Some(wait) = app.action_rates.count(LimitedAction::SignUpAs(&email)).await? {
        return Err(PageError::too_many(wait));
    }
    let respond_at = Instant::now() + RESPOND_AFTER;
    let made = app.database.sign_up(&email, &app.pages.sign_up_plan, Password::typed(&fields.password)).await;
    sleep_until(respond_at).await;
    match made {
        Ok(()) => Ok(Redirect::to("/account/sign-in?after=sign-up").into_response()),
        Err(error @ (AccountsError::Email(_) | AccountsError::Password(_))) => {
            Ok((StatusCode::BAD_REQUEST, render(&app, &browser, email, sentence(&error))).into_response())
        }
        Err(error) => Err(error.into()),
    }
}
