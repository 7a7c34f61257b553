use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{browser::Visitor, error::Trouble, form::Form, layout::Shell, session::Member, template::Page};
use crate::{accounts::Password, app::App, limits::Attempt};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    shell: Shell,
    csrf: String,
    /// Where to go then.
    to: String,
    email: String,
    notice: &'static str,
    complaint: &'static str,
    can_sign_up: bool,
}

/// What the page is asked with.
#[derive(Default, Deserialize)]
pub(super) struct SignInQuery {
    #[serde(default)]
    to: String,
    /// What has just been done.
    #[serde(default)]
    after: String,
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    email: String,
    password: String,
    #[serde(default)]
    to: String,
}

const WRONG: &str = "No account has this e-mail address and this password.";

/// `GET /account/sign-in`.
pub(super) async fn sign_in(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Query(query): Query<SignInQuery>,
) -> Response {
    let notice = match query.after.as_str() {
        "sign-up" => "If there was no account for this address, there is one now. Sign in with your password.",
        "password" => "The password is set. Sign in with it.",
        "sign-out" => "You are signed out.",
        "deleted" => "The account is deleted.",
        _ => "",
    };
    page(&app, &visitor, query.to, String::new(), notice, "")
}

fn page(
    app: &App,
    visitor: &Visitor,
    to: String,
    email: String,
    notice: &'static str,
    complaint: &'static str,
) -> Response {
    let page = SignInPage {
        shell: Shell::of_anybody("Sign in"),
        csrf: visitor.csrf_without_session().reveal().to_owned(),
        to,
        email,
        notice,
        complaint,
        can_sign_up: app.page.can_sign_up,
    };
    (visitor.remembered(), Page(page)).into_response()
}

/// `POST /account/sign-in`. It takes as long and answers the same whether there is
/// an account or not.
pub(super) async fn begin_session(
    State(app): State<Arc<App>>,
    Form { by: visitor, fields }: Form<Visitor, Credentials>,
) -> Result<Response, Trouble> {
    let Credentials { email, password, to } = fields;
    let from = visitor.address.map(Attempt::SignInFrom);
    for attempt in from.into_iter().chain([Attempt::PasswordOf(&email)]) {
        if let Some(wait) = app.attempts.refusal(attempt).await? {
            return Err(Trouble::too_many(wait));
        }
    }
    match app.database.sign_in(&email, Password::typed(&password), visitor.from(), visitor.session.as_ref()).await? {
        Some(session) => Ok((Visitor::signed_in(&session), Redirect::to(way(&to))).into_response()),
        None => {
            let page = page(&app, &visitor, to, email, "", WRONG);
            Ok((StatusCode::FORBIDDEN, page).into_response())
        }
    }
}

/// Where somebody wanted to go, if that is in the account.
fn way(to: &str) -> &str {
    let is_ours = to == "/account" || to.starts_with("/account/");
    let is_plain = to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours && is_plain { to } else { "/account/locks" }
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// `POST /account/sign-out`.
pub(super) async fn sign_out(
    State(app): State<Arc<App>>,
    Form { by: member, .. }: Form<Member, Nothing>,
) -> Result<Response, Trouble> {
    app.database.end_session(&member.session, Some(member.session.id)).await?;
    Ok((Visitor::signed_out(), Redirect::to("/account/sign-in?after=sign-out")).into_response())
}
