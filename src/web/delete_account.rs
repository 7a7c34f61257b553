use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    browser::Visitor,
    error::Trouble,
    form::Form,
    layout::{Section, Shell},
    security::knows_password,
    session::Member,
    template::Page,
};
use crate::{app::App, lock::Payment, locks::Looked};

#[derive(Template)]
#[template(path = "delete.html")]
struct DeletePage {
    shell: Shell,
    tokens: u64,
    namespaces: usize,
    held: u64,
    complaint: &'static str,
}

#[derive(Deserialize)]
pub(super) struct Confirmed {
    password: String,
}

/// `GET /account/security/delete`: what goes with the account.
pub(super) async fn ask_to_delete(State(app): State<Arc<App>>, member: Member) -> Result<Response, Trouble> {
    page(&app, &member, "").await
}

async fn page(app: &App, member: &Member, complaint: &'static str) -> Result<Response, Trouble> {
    let account = member.account().to_string();
    let held = match app.locks.census(member.account(), &Payment::Paid).await?.outcome {
        Looked::Found(census) => census.held,
        // Pages have a rate of their own.
        Looked::RateLimited { retry_after } => return Err(Trouble::too_many(retry_after)),
    };
    let page = DeletePage {
        shell: member.shell("Delete the account", Section::Security),
        tokens: app.database.count_live_tokens(member.account()).await?,
        namespaces: app.database.list_namespaces(&account).await?.len(),
        held,
        complaint,
    };
    Ok(Page(page).into_response())
}

/// `POST /account/security/delete`.
pub(super) async fn delete_account(
    State(app): State<Arc<App>>,
    Form { by: member, fields }: Form<Member, Confirmed>,
) -> Result<Response, Trouble> {
    member.may_act()?;
    if !knows_password(&app, &member, &fields.password).await? {
        let page = page(&app, &member, "This is not the password that the account has.").await?;
        return Ok((StatusCode::BAD_REQUEST, page).into_response());
    }
    // A server releases its locks: nobody can renew them any more, and those who wait need
    // not wait for that.
    app.database.delete_account(member.session.actor(), &member.account().to_string()).await?;
    Ok((Visitor::signed_out(), Redirect::to("/account/sign-in?after=deleted")).into_response())
}
