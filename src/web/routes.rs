use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};

use super::{
    account::account,
    aside::aside,
    assets::{asset, icon},
    audit::{audit, audit_csv},
    break_lock::{ask_to_break, break_lock},
    delete_account::{ask_to_delete, delete_account},
    documents::{document, documents, pipeline, pipelines},
    headers::headers,
    history::history,
    home::home,
    link::{link, use_link},
    live::live,
    locks::locks,
    namespaces::{make_namespace, remove_namespace},
    plan::{plan, set_lease},
    problems::{no_page, problem},
    reference::reference,
    security::{end_sessions, security, set_password},
    sign_in::{begin_session, sign_in, sign_out},
    sign_up::{make_account, sign_up},
    tokens::{ask_to_rotate, make_token, revoke_token, rotate_token, tokens},
};
use crate::app::App;

/// Every page. What surrounds each request is the server's, see
/// [`mod@crate::http`].
pub fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    let pages = Router::new()
        .route("/", get(home))
        .route("/docs", get(documents))
        .route("/docs/", get(documents))
        .route("/docs/api", get(reference))
        .route("/docs/ci", get(pipelines))
        .route("/docs/ci/{file}", get(pipeline))
        .route("/docs/{document}", get(document))
        .route("/problems/{slug}", get(problem))
        .route("/assets/{version}/{file}", get(asset))
        .route("/favicon.ico", get(icon));
    let of_accounts = Router::new()
        .route("/account", get(account))
        .route("/account/sign-in", get(sign_in).post(begin_session))
        .route("/account/sign-up", get(sign_up).post(make_account))
        .route("/account/sign-out", post(sign_out))
        .route("/account/link/{secret}", get(link).post(use_link))
        .route("/account/locks", get(locks))
        .route("/account/locks/live", get(live))
        .route("/account/locks/history", get(history))
        .route("/account/locks/break", get(ask_to_break).post(break_lock))
        .route("/account/tokens", get(tokens).post(make_token))
        .route("/account/tokens/{id}/rotate", get(ask_to_rotate).post(rotate_token))
        .route("/account/tokens/{id}/revoke", post(revoke_token))
        .route("/account/plan", get(plan))
        .route("/account/plan/lease", post(set_lease))
        .route("/account/namespaces", post(make_namespace))
        .route("/account/namespaces/remove", post(remove_namespace))
        .route("/account/security", get(security))
        .route("/account/security/password", post(set_password))
        .route("/account/security/sessions", post(end_sessions))
        .route("/account/security/delete", get(ask_to_delete).post(delete_account))
        .route("/account/audit", get(audit))
        .route("/account/audit.csv", get(audit_csv))
        .layer(middleware::from_fn_with_state(app.clone(), aside));
    pages.merge(of_accounts).fallback(no_page).layer(middleware::from_fn_with_state(app.clone(), headers))
}
