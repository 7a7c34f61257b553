use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{Method, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;

use super::{
    browser::Browser,
    error::PageError,
    layout::{Layout, Section},
};
use crate::{
    accounts::{Secret, Session},
    app::App,
    limits::{Admission, LimitedAction, PerKeySemaphorePermit, RateClass},
    lock::{AccountId, Namespace, NamespaceId, Rate},
};

/// A signed-in user: the session of a request, and the browser that sent it.
pub(super) struct SessionUser {
    pub session: Session,
    pub browser: Browser,
    /// During a recovery: the earliest time at which all locks can be granted again.
    pub recovering_until: Option<Timestamp>,
    /// The account's permit to render a page: one account cannot occupy the page runtime.
    _permit: PerKeySemaphorePermit<AccountId>,
}

/// Why a request has no signed-in user.
pub(super) enum SessionRejection {
    SignedOut { to: Option<String> },
    PageError(PageError),
}

impl SessionUser {
    /// Rate of page requests of all sessions of an account: far more than a person needs.
    pub(super) const RATE: Rate = Rate { per_second: 20, burst: 100 };

    pub(super) fn account(&self) -> AccountId {
        self.session.account.id
    }

    pub(super) fn layout(&self, title: &str, section: Section) -> Layout {
        Layout::for_user(title, section, self)
    }

    /// Rejects changes by a suspended account, which may only read.
    pub(super) fn require_active(&self) -> Result<(), PageError> {
        match self.session.account.suspended_at {
            None => Ok(()),
            Some(_) => {
                Err(PageError::forbidden("This account is suspended. Ask the operator of this server to resume it."))
            }
        }
    }

    /// Rejects changes by a suspended account, and limits the rate of changes: each adds a row
    /// to the audit log.
    pub(super) async fn require_change_allowed(
        &self,
        app: &App,
        attempt: fn(AccountId) -> LimitedAction<'static>,
    ) -> Result<(), PageError> {
        self.require_active()?;
        match app.action_rates.count(attempt(self.account())).await? {
            Some(wait) => Err(PageError::too_many(wait)),
            None => Ok(()),
        }
    }

    /// The public namespace and the account's private namespaces.
    pub(super) async fn namespaces(&self, app: &App) -> Result<Vec<Namespace>, PageError> {
        let own = app.database.list_namespaces(&self.account().to_string()).await?;
        let own = own.into_iter().filter_map(|info| Some(Namespace { id: info.id.parse().ok()?, name: info.name }));
        Ok(std::iter::once(Namespace::public()).chain(own).collect())
    }
}

/// The name of a namespace; empty for a removed one.
pub(super) fn name_of(namespaces: &[Namespace], id: NamespaceId) -> &str {
    namespaces.iter().find(|namespace| namespace.id == id).map_or("", |namespace| &namespace.name)
}

/// Finds a namespace by its name.
pub(super) fn find_namespace<'a>(namespaces: &'a [Namespace], name: &str) -> Result<&'a Namespace, PageError> {
    let found = namespaces.iter().find(|namespace| namespace.name == name);
    found.ok_or_else(|| PageError::not_found("This account has no such namespace."))
}

impl FromRequestParts<Arc<App>> for SessionUser {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, SessionRejection> {
        let browser = Browser::from_request_parts(parts, app).await?;
        let is_get = parts.method == Method::GET;
        let signed_out = || SessionRejection::SignedOut { to: is_get.then(|| parts.uri.to_string()) };
        let secret = browser.session.as_ref().ok_or_else(signed_out)?;
        let session = find_session(app, browser.address, secret).await?.ok_or_else(signed_out)?;
        let limiter = app.account_rates.limiter(session.account.id, Self::RATE, RateClass::Page);
        match app.account_rates.admit(&limiter).await.map_err(PageError::from)? {
            Admission::Admitted { .. } => {
                let permit = app
                    .pages
                    .renders_per_account
                    .acquire(session.account.id)
                    .await
                    .map_err(PageError::too_concurrent_for_account)?;
                Ok(Self { session, browser, recovering_until: app.locks.all_recovered_at(), _permit: permit })
            }
            Admission::Refused { retry_after, .. } => Err(PageError::too_many(retry_after).into()),
        }
    }
}

/// Finds the session of a secret. Session secrets cannot be guessed, but each guess queries the
/// database: an address has a few concurrent lookups, and none after too many failures.
async fn find_session(app: &App, address: Option<IpAddr>, secret: &Secret) -> Result<Option<Session>, PageError> {
    let reject_after_failures = || match address.and_then(|address| app.session_failures.blocked_for(address)) {
        Some(wait) => Err(PageError::too_many(wait)),
        None => Ok(()),
    };
    reject_after_failures()?;
    // Hold the permit until the failure is counted, so that the next request sees it.
    let _permit = match address {
        Some(address) => {
            Some(app.session_failures.database_lookups.acquire(address).await.map_err(PageError::too_concurrent)?)
        }
        None => None,
    };
    reject_after_failures()?;
    let session = app.database.find_session(secret).await?;
    if let (None, Some(address)) = (&session, address) {
        app.session_failures.record_failure(address);
    }
    Ok(session)
}

impl From<PageError> for SessionRejection {
    fn from(error: PageError) -> Self {
        Self::PageError(error)
    }
}

impl IntoResponse for SessionRejection {
    fn into_response(self) -> Response {
        match self {
            Self::SignedOut { to: Some(to) } => {
                let to: String = form_urlencoded::byte_serialize(to.as_bytes()).collect();
                Redirect::to(&format!("/account/sign-in?to={to}")).into_response()
            }
            Self::SignedOut { to: None } => Redirect::to("/account/sign-in").into_response(),
            Self::PageError(error) => error.into_response(),
        }
    }
}
