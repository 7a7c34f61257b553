use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    browser::Browser,
    error::PageError,
    form::Form,
    layout::{Layout, Section},
    security::check_password,
    session::SessionUser,
    template::HtmlPage,
};
use crate::{app::App, lock::RateCharge, locks::ReadOutcome};

#[derive(Template)]
#[template(path = "delete.html")]
struct DeletePage {
    layout: Layout,
    tokens: u64,
    namespaces: usize,
    held: u64,
    form_error: &'static str,
}

#[derive(Deserialize)]
pub(super) struct DeleteAccountForm {
    password: String,
}

/// `GET /account/security/delete`: asks for confirmation and lists what is deleted.
pub(super) async fn delete_page(State(app): State<Arc<App>>, user: SessionUser) -> Result<Response, PageError> {
    render(&app, &user, "").await
}

async fn render(app: &App, user: &SessionUser, form_error: &'static str) -> Result<Response, PageError> {
    let account = user.account().to_string();
    let held = match app.locks.usage(user.account(), &RateCharge::Done).await?.outcome {
        ReadOutcome::Found(usage) => usage.held,
        // Unreachable with `Paid`: pages are limited by `SessionUser::RATE`.
        ReadOutcome::RateLimited { retry_after } => return Err(PageError::too_many(retry_after)),
    };
    let page = DeletePage {
        layout: user.layout("Delete account", Section::Security),
        tokens: app.database.count_live_tokens(user.account()).await?,
        namespaces: app.database.list_namespaces(&account).await?.len(),
        held,
        form_error,
    };
    Ok(HtmlPage(page).into_response())
}

/// `POST /account/security/delete`.
pub(super) async fn delete_account(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, DeleteAccountForm>,
) -> Result<Response, PageError> {
    user.require_active()?;
    if !check_password(&app, &user, &fields.password).await? {
        let page = render(&app, &user, "Wrong password.").await?;
        return Ok((StatusCode::BAD_REQUEST, page).into_response());
    }
    // A server then releases the account's locks: nobody can renew them, and their waiters
    // should not wait for the leases to expire.
    app.database.delete_account(user.session.actor(), &user.account().to_string()).await?;
    Ok((Browser::expired_cookies(), Redirect::to("/account/sign-in?after=deleted")).into_response())
}
