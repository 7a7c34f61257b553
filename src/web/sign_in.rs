use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    browser::Browser,
    error::PageError,
    form::{EmptyForm, Form},
    layout::Layout,
    session::SessionUser,
    template::HtmlPage,
};
use crate::{accounts::Password, app::App, limits::LimitedAction};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    layout: Layout,
    csrf: String,
    /// The page to open after sign-in.
    to: String,
    email: String,
    notice: &'static str,
    form_error: &'static str,
    can_sign_up: bool,
}

/// The query string of the sign-in page.
#[derive(Default, Deserialize)]
pub(super) struct SignInQuery {
    #[serde(default)]
    to: String,
    /// The action that redirected here; selects the notice.
    #[serde(default)]
    after: String,
}

#[derive(Deserialize)]
pub(super) struct SignInForm {
    email: String,
    password: String,
    #[serde(default)]
    to: String,
}

const WRONG_CREDENTIALS: &str = "Wrong e-mail or password.";

/// `GET /account/sign-in`.
pub(super) async fn sign_in(
    State(app): State<Arc<App>>,
    browser: Browser,
    Query(query): Query<SignInQuery>,
) -> Response {
    let notice = match query.after.as_str() {
        "sign-up" => "If this e-mail address was new, its account is created. Sign in with your password.",
        "password" => "Your password is set. Sign in with it.",
        "sign-out" => "You are signed out.",
        "deleted" => "Your account is deleted.",
        _ => "",
    };
    render(&app, &browser, query.to, String::new(), notice, "")
}

fn render(
    app: &App,
    browser: &Browser,
    to: String,
    email: String,
    notice: &'static str,
    form_error: &'static str,
) -> Response {
    let page = SignInPage {
        layout: Layout::signed_out("Sign in"),
        csrf: browser.csrf_without_session().reveal().to_owned(),
        to,
        email,
        notice,
        form_error,
        can_sign_up: app.pages.can_sign_up,
    };
    (browser.browser_cookie(), HtmlPage(page)).into_response()
}

/// `POST /account/sign-in`. The response and its latency do not reveal whether the account
/// exists.
pub(super) async fn begin_session(
    State(app): State<Arc<App>>,
    Form { by: browser, fields }: Form<Browser, SignInForm>,
) -> Result<Response, PageError> {
    let SignInForm { email, password, to } = fields;
    let from = browser.address.map(LimitedAction::SignInFrom);
    for attempt in from.into_iter().chain([LimitedAction::PasswordOf(&email)]) {
        if let Some(wait) = app.action_rates.count(attempt).await? {
            return Err(PageError::too_many(wait));
        }
    }
    match app
        .database
        .sign_in(&email, Password::typed(&password), browser.session_origin(), browser.session.as_ref())
        .await?
    {
        Some(session) => Ok((Browser::session_cookies(&session), Redirect::to(redirect_target(&to))).into_response()),
        None => {
            let page = render(&app, &browser, to, email, "", WRONG_CREDENTIALS);
            Ok((StatusCode::FORBIDDEN, page).into_response())
        }
    }
}

/// Redirect target after sign-in: `to` if it is an account page, else the list of locks.
fn redirect_target(to: &str) -> &str {
    let is_account_page = to == "/account" || to.starts_with("/account/");
    let is_plain = to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_account_page && is_plain { to } else { "/account/locks" }
}

/// `POST /account/sign-out`.
pub(super) async fn sign_out(
    State(app): State<Arc<App>>,
    Form { by: user, .. }: Form<SessionUser, EmptyForm>,
) -> Result<Response, PageError> {
    app.database.end_session(&user.session, Some(user.session.id)).await?;
    Ok((Browser::expired_cookies(), Redirect::to("/account/sign-in?after=sign-out")).into_response())
}
