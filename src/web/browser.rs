use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{Extensions, HeaderMap, header, request::Parts},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};

use super::error::Trouble;
use crate::{
    accounts::{Origin, Secret},
    app::App,
    http::{Connection, client_address, origin},
};

/// Somebody who looks at a page, whoever it is.
pub(super) struct Visitor {
    pub address: Option<IpAddr>,
    agent: String,
    /// Where the server is for them, without a slash at its end.
    pub origin: String,
    /// What the browser shows of a session.
    pub session: Option<Secret>,
    /// What tells this browser from others before anybody has signed in.
    secret: Secret,
}

/// Browsers take cookies of such a name only by HTTPS (or from this machine), for
/// this host alone, and from no other host.
const SESSION: &str = "__Host-lockable";
const VISITOR: &str = "__Host-lockable-visitor";

impl Visitor {
    /// Which form fields show that a form was made for this browser.
    pub(super) fn csrf(&self) -> Secret {
        self.session.as_ref().unwrap_or(&self.secret).derive("form")
    }

    /// The same before signing in, also for who has a session.
    pub(super) fn csrf_without_session(&self) -> Secret {
        self.secret.derive("form")
    }

    pub(super) fn from(&self) -> Origin {
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        Origin { address, agent: self.agent.clone() }
    }

    /// What the browser is to keep for the form that it is sent.
    pub(super) fn remembered(&self) -> CookieJar {
        CookieJar::new().add(cookie(VISITOR, self.secret.reveal()))
    }

    /// What the browser is to keep of a session; another visitor it is from then
    /// on. It has no `Max-Age`, so the browser forgets it when it is closed: nobody
    /// asked to stay signed in.
    pub(super) fn signed_in(session: &Secret) -> CookieJar {
        CookieJar::new().add(cookie(SESSION, session.reveal())).add(cookie(VISITOR, Secret::generate().reveal()))
    }

    pub(super) fn signed_out() -> CookieJar {
        let gone = |name: &'static str| {
            let mut gone = cookie(name, "");
            gone.make_removal();
            gone
        };
        CookieJar::new().add(gone(SESSION)).add(gone(VISITOR))
    }
}

fn cookie(name: &'static str, value: &str) -> Cookie<'static> {
    // Lax: whoever follows a link to the page is signed in there.
    Cookie::build((name, value.to_owned())).path("/").secure(true).http_only(true).same_site(SameSite::Lax).build()
}

impl FromRequestParts<Arc<App>> for Visitor {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Trouble> {
        let jar = CookieJar::from_headers(&parts.headers);
        let kept = |name| jar.get(name).and_then(|cookie| Secret::parse(cookie.value()));
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        Ok(Self {
            address: address(app, &parts.extensions, &parts.headers),
            agent: agent.chars().filter(|c| !c.is_control()).collect(),
            origin: origin(app, &parts.extensions, &parts.headers)
                .ok_or_else(|| Trouble::malformed("the field Host names no host"))?,
            session: kept(SESSION),
            secret: kept(VISITOR).unwrap_or_else(Secret::generate),
        })
    }
}

fn address(app: &App, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let connection = extensions.get::<Connection>()?;
    Some(client_address(connection.peer().ip(), headers, &app.trusted_proxies))
}
