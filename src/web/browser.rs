use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{Extensions, HeaderMap, header, request::Parts},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};

use super::error::PageError;
use crate::{
    accounts::{Origin, Secret},
    app::App,
    http::{Connection, client_address, origin},
};

/// The browser that sends a request, signed in or not.
pub(super) struct Browser {
    pub address: Option<IpAddr>,
    agent: String,
    /// The server's public URL as the browser sees it, without a slash at its end.
    pub origin: String,
    /// The session secret from the cookie.
    pub session: Option<Secret>,
    /// Identifies this browser before sign-in.
    secret: Secret,
}

/// Browsers accept cookies with the prefix `__Host-` only over HTTPS (or from localhost), and
/// only for and from this host.
const SESSION_COOKIE: &str = "__Host-lockable";
const BROWSER_COOKIE: &str = "__Host-lockable-visitor";

impl Browser {
    /// The CSRF token of forms for this browser and session.
    pub(super) fn csrf(&self) -> Secret {
        self.session.as_ref().unwrap_or(&self.secret).derive("form")
    }

    /// The CSRF token of the forms that need no session, such as sign-in.
    pub(super) fn csrf_without_session(&self) -> Secret {
        self.secret.derive("form")
    }

    pub(super) fn session_origin(&self) -> Origin {
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        Origin { address, agent: self.agent.clone() }
    }

    /// The cookie that the CSRF token of this browser is derived from.
    pub(super) fn browser_cookie(&self) -> CookieJar {
        CookieJar::new().add(cookie(BROWSER_COOKIE, self.secret.reveal()))
    }

    /// The cookies of a new session. The browser's secret changes too. The cookies have no
    /// `Max-Age`, so the browser deletes them when it is closed: the user did not ask to stay
    /// signed in.
    pub(super) fn session_cookies(session: &Secret) -> CookieJar {
        CookieJar::new()
            .add(cookie(SESSION_COOKIE, session.reveal()))
            .add(cookie(BROWSER_COOKIE, Secret::generate().reveal()))
    }

    pub(super) fn expired_cookies() -> CookieJar {
        let removal = |name: &'static str| {
            let mut cookie = cookie(name, "");
            cookie.make_removal();
            cookie
        };
        CookieJar::new().add(removal(SESSION_COOKIE)).add(removal(BROWSER_COOKIE))
    }
}

fn cookie(name: &'static str, value: &str) -> Cookie<'static> {
    // Lax: a user who follows a link from another site is still signed in.
    Cookie::build((name, value.to_owned())).path("/").secure(true).http_only(true).same_site(SameSite::Lax).build()
}

impl FromRequestParts<Arc<App>> for Browser {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, PageError> {
        let jar = CookieJar::from_headers(&parts.headers);
        let secret = |name| jar.get(name).and_then(|cookie| Secret::parse(cookie.value()));
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        Ok(Self {
            address: address(app, &parts.extensions, &parts.headers),
            agent: agent.chars().filter(|c| !c.is_control()).collect(),
            origin: origin(app, &parts.extensions, &parts.headers)
                .ok_or_else(|| PageError::malformed("The request has no valid Host header."))?,
            session: secret(SESSION_COOKIE),
            secret: secret(BROWSER_COOKIE).unwrap_or_else(Secret::generate),
        })
    }
}

fn address(app: &App, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let connection = extensions.get::<Connection>()?;
    Some(client_address(connection.peer().ip(), headers, &app.trusted_proxies))
}
