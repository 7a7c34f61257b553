use std::sync::Arc;

use axum::{extract::State, response::Redirect};
use serde::Deserialize;

use super::{
    error::Trouble,
    form::Form,
    session::{Member, find_namespace},
};
use crate::{app::App, limits::Attempt, lock::NamespaceId, locks::ListRequest};

#[derive(Deserialize)]
pub(super) struct OneNamespace {
    name: String,
}

/// `POST /account/namespaces`.
pub(super) async fn make_namespace(
    State(app): State<Arc<App>>,
    Form { by: member, fields }: Form<Member, OneNamespace>,
) -> Result<Redirect, Trouble> {
    member.may_change(&app, Attempt::ChangeOf).await?;
    app.database.create_namespace(member.session.actor(), &member.account().to_string(), fields.name.trim()).await?;
    Ok(Redirect::to("/account/plan"))
}

/// `POST /account/namespaces/remove`: removes one in which no lock is held. What is
/// acquired in the second until all servers know lapses, and is seen by nobody.
pub(super) async fn remove_namespace(
    State(app): State<Arc<App>>,
    Form { by: member, fields }: Form<Member, OneNamespace>,
) -> Result<Redirect, Trouble> {
    member.may_act()?;
    let namespaces = member.namespaces(&app).await?;
    let namespace = find_namespace(&namespaces, &fields.name)?;
    if holds_any(&app, &member, namespace.id).await? {
        return Err(Trouble::malformed(format!(
            "Locks are held in {:?}; it can be removed when it is empty.",
            fields.name
        )));
    }
    app.database.remove_namespace(member.session.actor(), &member.account().to_string(), &fields.name).await?;
    Ok(Redirect::to("/account/plan"))
}

async fn holds_any(app: &App, member: &Member, namespace: NamespaceId) -> Result<bool, Trouble> {
    let mut request = ListRequest {
        account: member.account(),
        namespace: Some(namespace),
        prefix: String::new(),
        limit: 1,
        after: None,
    };
    loop {
        // Pages have a rate of their own.
        let page = app.locks.list_uncounted(request.clone()).await?;
        match page.next {
            _ if !page.locks.is_empty() => return Ok(true),
            None => return Ok(false),
            next => request.after = next,
        }
    }
}
