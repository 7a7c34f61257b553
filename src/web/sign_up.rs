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
    browser::Visitor,
    error::{Trouble, sentence},
    form::Form,
    layout::Shell,
    template::Page,
};
use crate::{
    accounts::{AccountsError, Password},
    app::App,
    limits::Attempt,
};

#[derive(Template)]
#[template(path = "sign_up.html")]
struct SignUpPage {
    shell: Shell,
    csrf: String,
    is_open: bool,
    email: String,
    complaint: String,
}

#[derive(Deserialize)]
pub(super) struct NewMember {
    email: String,
    password: String,
}

/// When signing up is answered: to make an account takes a moment longer than to
/// find that there is one, and nobody is to see that.
const ANSWER_AFTER: Duration = Duration::from_millis(500);

/// `GET /account/sign-up`.
pub(super) async fn sign_up(State(app): State<Arc<App>>, visitor: Visitor) -> Response {
    page(&app, &visitor, String::new(), String::new())
}

fn page(app: &App, visitor: &Visitor, email: String, complaint: String) -> Response {
    let page = SignUpPage {
        shell: Shell::of_anybody("Sign up"),
        csrf: visitor.csrf_without_session().reveal().to_owned(),
        is_open: app.page.can_sign_up,
        email,
        complaint,
    };
    (visitor.remembered(), Page(page)).into_response()
}

/// `POST /account/sign-up`. Whether the address has an account already is told to
/// nobody.
pub(super) async fn make_account(
    State(app): State<Arc<App>>,
    Form { by: visitor, fields }: Form<Visitor, NewMember>,
) -> Result<Response, Trouble> {
    if !app.page.can_sign_up {
        return Err(Trouble::forbidden("Accounts are made by invitation here. Ask whoever runs this server."));
    }
    let email = fields.email.trim().to_owned();
    if let Some(address) = visitor.address
        && let Some(wait) = app.attempts.refusal(Attempt::SignUpFrom(address)).await?
    {
        return Err(Trouble::too_many(wait));
    }
    // Its owner, if it has one, finds each in the audit log.
    if let Some(wait) = app.attempts.refusal(Attempt::SignUpAs(&email)).await? {
        return Err(Trouble::too_many(wait));
    }
    let answer_at = Instant::now() + ANSWER_AFTER;
    let made = app.database.sign_up(&email, &app.page.sign_up_plan, Password::typed(&fields.password)).await;
    sleep_until(answer_at).await;
    match made {
        Ok(()) => Ok(Redirect::to("/account/sign-in?after=sign-up").into_response()),
        Err(error @ (AccountsError::Email(_) | AccountsError::Password(_))) => {
            Ok((StatusCode::BAD_REQUEST, page(&app, &visitor, email, sentence(&error))).into_response())
        }
        Err(error) => Err(error.into()),
    }
}
