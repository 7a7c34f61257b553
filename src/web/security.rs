use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    error::{Trouble, sentence},
    form::Form,
    layout::{Section, Shell},
    session::Member,
    template::Page,
    time::Moment,
};
use crate::{
    accounts::{AccountsError, Password, SessionInfo},
    app::App,
    limits::Attempt,
};

#[derive(Template)]
#[template(path = "security.html")]
struct SecurityPage {
    shell: Shell,
    sessions: Vec<SessionView>,
    complaint: String,
}

struct SessionView {
    id: Uuid,
    agent: String,
    address: String,
    since: Moment,
    seen: Moment,
    is_this: bool,
}

#[derive(Deserialize)]
pub(super) struct NewPassword {
    current: String,
    password: String,
}

#[derive(Deserialize)]
pub(super) struct Ending {
    /// Empty for all others.
    session: String,
}

/// `GET /account/security`.
pub(super) async fn security(State(app): State<Arc<App>>, member: Member) -> Result<Response, Trouble> {
    page(&app, &member, String::new()).await
}

async fn page(app: &App, member: &Member, complaint: String) -> Result<Response, Trouble> {
    let sessions = app.database.list_sessions(&member.session.account).await?;
    let sessions = sessions.into_iter().map(|session| SessionView::new(session, member)).collect();
    let shell = member.shell("Security", Section::Security);
    Ok(Page(SecurityPage { shell, sessions, complaint }).into_response())
}

/// `POST /account/security/password`. All other sessions end.
pub(super) async fn set_password(
    State(app): State<Arc<App>>,
    Form { by: member, fields }: Form<Member, NewPassword>,
) -> Result<Response, Trouble> {
    let complaint = if knows_password(&app, &member, &fields.current).await? {
        match app.database.set_password(&member.session, Password::typed(&fields.password)).await {
            Ok(()) => return Ok(Redirect::to("/account/security").into_response()),
            Err(error @ AccountsError::Password(_)) => sentence(&error),
            Err(error) => return Err(error.into()),
        }
    } else {
        "This is not the password that the account has.".to_owned()
    };
    Ok((StatusCode::BAD_REQUEST, page(&app, &member, complaint).await?).into_response())
}

/// Whether who is signed in knows the password, too: what cannot be undone is not
/// for somebody who has found an open browser. Counted by session: what strangers try does not
/// keep the owner from it.
pub(super) async fn knows_password(app: &App, member: &Member, password: &str) -> Result<bool, Trouble> {
    let account = &member.session.account;
    if let Some(wait) = app.attempts.refusal(Attempt::PasswordIn(member.session.id)).await? {
        return Err(Trouble::too_many(wait));
    }
    Ok(app.database.is_password(account, Password::typed(password)).await?)
}

/// `POST /account/security/sessions`.
pub(super) async fn end_sessions(
    State(app): State<Arc<App>>,
    Form { by: member, fields }: Form<Member, Ending>,
) -> Result<Redirect, Trouble> {
    let id = match fields.session.as_str() {
        "" => None,
        id => Some(Uuid::try_parse(id).map_err(|_| Trouble::not_found("There is no such session."))?),
    };
    app.database.end_session(&member.session, id).await?;
    Ok(Redirect::to("/account/security"))
}

impl SessionView {
    fn new(session: SessionInfo, member: &Member) -> Self {
        Self {
            id: session.id,
            agent: session.origin.agent,
            address: session.origin.address,
            since: Moment::of_ms(session.created_at),
            seen: Moment::of_ms(session.seen_at),
            is_this: session.id == member.session.id,
        }
    }
}
