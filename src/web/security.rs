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
    error::{PageError, sentence},
    form::Form,
    layout::{Layout, Section},
    session::SessionUser,
    template::HtmlPage,
    time::DisplayTime,
};
use crate::{
    accounts::{AccountsError, Password, SessionInfo},
    app::App,
    limits::LimitedAction,
};

#[derive(Template)]
#[template(path = "security.html")]
struct SecurityPage {
    layout: Layout,
    sessions: Vec<SessionRow>,
    form_error: String,
}

struct SessionRow {
    id: Uuid,
    agent: String,
    address: String,
    since: DisplayTime,
    seen: DisplayTime,
    is_this: bool,
}

#[derive(Deserialize)]
pub(super) struct PasswordForm {
    current: String,
    password: String,
}

#[derive(Deserialize)]
pub(super) struct EndSessionForm {
    /// Empty for all other sessions.
    session: String,
}

/// `GET /account/security`.
pub(super) async fn security(State(app): State<Arc<App>>, user: SessionUser) -> Result<Response, PageError> {
    render(&app, &user, String::new()).await
}

async fn render(app: &App, user: &SessionUser, form_error: String) -> Result<Response, PageError> {
    let sessions = app.database.list_sessions(&user.session.account).await?;
    let sessions = sessions.into_iter().map(|session| SessionRow::new(session, user)).collect();
    let layout = user.layout("Security", Section::Security);
    Ok(HtmlPage(SecurityPage { layout, sessions, form_error }).into_response())
}

/// `POST /account/security/password`: changes the password and ends all other sessions.
pub(super) async fn set_password(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, PasswordForm>,
) -> Result<Response, PageError> {
    let form_error = if check_password(&app, &user, &fields.current).await? {
        match app.database.set_password(&user.session, Password::typed(&fields.password)).await {
            Ok(()) => return Ok(Redirect::to("/account/security").into_response()),
            Err(error @ AccountsError::Password(_)) => sentence(&error),
            Err(error) => return Err(error.into()),
        }
    } else {
        "Wrong password.".to_owned()
    };
    Ok((StatusCode::BAD_REQUEST, render(&app, &user, form_error).await?).into_response())
}

/// Checks the password of the signed-in user. Irreversible actions require it, so that an
/// unattended browser is not enough. Attempts are counted by session: attempts from elsewhere
/// do not block the user.
pub(super) async fn check_password(app: &App, user: &SessionUser, password: &str) -> Result<bool, PageError> {
    let account = &user.session.account;
    if let Some(wait) = app.action_rates.count(LimitedAction::PasswordIn(user.session.id)).await? {
        return Err(PageError::too_many(wait));
    }
    Ok(app.database.is_password(account, Password::typed(password)).await?)
}

/// `POST /account/security/sessions`.
pub(super) async fn end_sessions(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, EndSessionForm>,
) -> Result<Redirect, PageError> {
    let id = match fields.session.as_str() {
        "" => None,
        id => Some(Uuid::try_parse(id).map_err(|_| PageError::not_found("This session does not exist."))?),
    };
    app.database.end_session(&user.session, id).await?;
    Ok(Redirect::to("/account/security"))
}

impl SessionRow {
    fn new(session: SessionInfo, user: &SessionUser) -> Self {
        Self {
            id: session.id,
            agent: session.origin.agent,
            address: session.origin.address,
            since: DisplayTime::from_ms(session.created_at),
            seen: DisplayTime::from_ms(session.seen_at),
            is_this: session.id == user.session.id,
        }
    }
}
