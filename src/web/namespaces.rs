use std::sync::Arc;

use axum::{extract::State, response::Redirect};
use serde::Deserialize;

use super::{
    error::PageError,
    form::Form,
    session::{SessionUser, find_namespace},
};
use crate::{app::App, limits::LimitedAction, lock::NamespaceId, locks::ListRequest};

#[derive(Deserialize)]
pub(super) struct NamespaceForm {
    name: String,
}

/// `POST /account/namespaces`.
pub(super) async fn create_namespace(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, NamespaceForm>,
) -> Result<Redirect, PageError> {
    user.require_change_allowed(&app, LimitedAction::ChangeOf).await?;
    app.database.create_namespace(user.session.actor(), &user.account().to_string(), fields.name.trim()).await?;
    Ok(Redirect::to("/account/plan"))
}

/// `POST /account/namespaces/remove`: removes a namespace without held locks. All servers apply
/// the removal within a second. A lock that a client acquires in this second expires with its
/// lease, and no list shows it.
pub(super) async fn delete_namespace(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, NamespaceForm>,
) -> Result<Redirect, PageError> {
    user.require_active()?;
    let namespaces = user.namespaces(&app).await?;
    let namespace = find_namespace(&namespaces, &fields.name)?;
    if holds_any(&app, &user, namespace.id).await? {
        return Err(PageError::malformed(format!(
            "Locks are held in the namespace {:?}. Release them first.",
            fields.name
        )));
    }
    app.database.delete_namespace(user.session.actor(), &user.account().to_string(), &fields.name).await?;
    Ok(Redirect::to("/account/plan"))
}

async fn holds_any(app: &App, user: &SessionUser, namespace: NamespaceId) -> Result<bool, PageError> {
    let mut request = ListRequest {
        account: user.account(),
        namespace: Some(namespace),
        prefix: String::new(),
        limit: 1,
        after: None,
    };
    loop {
        // Uncounted: pages are limited by `SessionUser::RATE`.
        let page = app.locks.list_uncounted(request.clone()).await?;
        match page.next {
            _ if !page.locks.is_empty() => return Ok(true),
            None => return Ok(false),
            next => request.after = next,
        }
    }
}
