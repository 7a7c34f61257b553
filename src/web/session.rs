use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{Method, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;

use super::{
    browser::Visitor,
    error::Trouble,
    layout::{Section, Shell},
};
use crate::{
    accounts::{Secret, Session},
    app::App,
    limits::{Admission, Attempt, RateShare, Turn},
    lock::{AccountId, Namespace, NamespaceId, Rate},
};

/// Somebody who has signed in.
pub(super) struct Member {
    pub session: Session,
    pub visitor: Visitor,
    /// When all locks can be granted again at the earliest, in a recovery.
    pub recovering_until: Option<Timestamp>,
    /// Of the account, to have a page made: one account does not keep all others waiting.
    _turn: Turn<AccountId>,
}

/// Why there is none.
pub(super) enum NoMember {
    SignedOut { to: Option<String> },
    Trouble(Trouble),
}

impl Member {
    /// How many pages all sessions of an account may ask for: far more than anybody reads.
    pub(super) const RATE: Rate = Rate { per_second: 20, burst: 100 };

    pub(super) fn account(&self) -> AccountId {
        self.session.account.id
    }

    pub(super) fn shell(&self, title: &str, section: Section) -> Shell {
        Shell::of_member(title, section, self)
    }

    /// Whoever is suspended can look, and nothing more.
    pub(super) fn may_act(&self) -> Result<(), Trouble> {
        match self.session.account.suspended_at {
            None => Ok(()),
            Some(_) => Err(Trouble::forbidden("This account is suspended. Its operator can let it go on.")),
        }
    }

    /// The same for what leaves a row in the audit log each time: so many at once, and
    /// then slowly.
    pub(super) async fn may_change(
        &self,
        app: &App,
        attempt: fn(AccountId) -> Attempt<'static>,
    ) -> Result<(), Trouble> {
        self.may_act()?;
        match app.attempts.refusal(attempt(self.account())).await? {
            Some(wait) => Err(Trouble::too_many(wait)),
            None => Ok(()),
        }
    }

    /// The public namespace and the account's own.
    pub(super) async fn namespaces(&self, app: &App) -> Result<Vec<Namespace>, Trouble> {
        let own = app.database.list_namespaces(&self.account().to_string()).await?;
        let own = own.into_iter().filter_map(|info| Some(Namespace { id: info.id.parse().ok()?, name: info.name }));
        Ok(std::iter::once(Namespace::public()).chain(own).collect())
    }
}

/// What a namespace is called by an account; nothing for one that was removed.
pub(super) fn name_of(namespaces: &[Namespace], id: NamespaceId) -> &str {
    namespaces.iter().find(|namespace| namespace.id == id).map_or("", |namespace| &namespace.name)
}

/// The namespace of that name.
pub(super) fn find_namespace<'a>(namespaces: &'a [Namespace], name: &str) -> Result<&'a Namespace, Trouble> {
    let found = namespaces.iter().find(|namespace| namespace.name == name);
    found.ok_or_else(|| Trouble::not_found("This account has no such namespace."))
}

impl FromRequestParts<Arc<App>> for Member {
    type Rejection = NoMember;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, NoMember> {
        let visitor = Visitor::from_request_parts(parts, app).await?;
        let is_get = parts.method == Method::GET;
        let signed_out = || NoMember::SignedOut { to: is_get.then(|| parts.uri.to_string()) };
        let secret = visitor.session.as_ref().ok_or_else(signed_out)?;
        let session = find_session(app, visitor.address, secret).await?.ok_or_else(signed_out)?;
        let meter = app.rates.meter(session.account.id, Self::RATE, RateShare::Page);
        match app.rates.admit(&meter).await.map_err(Trouble::from)? {
            Admission::Admitted { .. } => {
                let turn = app.page.making_of.take(session.account.id).await.map_err(Trouble::no_turn_of_account)?;
                Ok(Self { session, visitor, recovering_until: app.locks.all_recovered_at(), _turn: turn })
            }
            Admission::Refused { retry_after, .. } => Err(Trouble::too_many(retry_after).into()),
        }
    }
}

/// Finds what session a browser shows. Guessing one is hopeless, and still asks the
/// database: so each address has a few lookups at once, until it has failed too
/// often.
async fn find_session(app: &App, address: Option<IpAddr>, secret: &Secret) -> Result<Option<Session>, Trouble> {
    let refuse_after_failures = || match address.and_then(|address| app.sessions.refusal(address)) {
        Some(wait) => Err(Trouble::too_many(wait)),
        None => Ok(()),
    };
    refuse_after_failures()?;
    // Kept until a failure is counted: whose turn is next is to know.
    let _turn = match address {
        Some(address) => Some(app.sessions.database.take(address).await.map_err(Trouble::no_turn)?),
        None => None,
    };
    refuse_after_failures()?;
    let session = app.database.find_session(secret).await?;
    if let (None, Some(address)) = (&session, address) {
        app.sessions.record_failure(address);
    }
    Ok(session)
}

impl From<Trouble> for NoMember {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl IntoResponse for NoMember {
    fn into_response(self) -> Response {
        match self {
            Self::SignedOut { to: Some(to) } => {
                let to: String = form_urlencoded::byte_serialize(to.as_bytes()).collect();
                Redirect::to(&format!("/account/sign-in?to={to}")).into_response()
            }
            Self::SignedOut { to: None } => Redirect::to("/account/sign-in").into_response(),
            Self::Trouble(trouble) => trouble.into_response(),
        }
    }
}
