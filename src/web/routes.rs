use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};

use super::{
    account::account,
    assets::{asset, icon},
    audit::{audit, audit_csv},
    break_lock::{break_lock, break_page},
    delete_account::{delete_account, delete_page},
    documents::{document, documents, pipeline, pipelines},
    headers::headers,
    history::history,
    home::home,
    link::{link, use_link},
    live::live,
    locks::locks,
    namespaces::{create_namespace, delete_namespace},
    page_runtime::on_page_runtime,
    plan::{plan, set_lease},
    problems::{no_page, problem},
    reference::reference,
    security::{end_sessions, security, set_password},
    sign_in::{begin_session, sign_in, sign_out},
    sign_up::{create_account, sign_up},
    tokens::{create_token, revoke_token, rotate_page, rotate_token, tokens},
};
use crate::app::App;

/// All pages. [`mod@crate::http`] adds the layers that every request passes.
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
    let account_pages = Router::new()
        .route("/account", get(account))
        .route("/account/sign-in", get(sign_in).post(begin_session))
        .route("/account/sign-up", get(sign_up).post(create_account))
        .route("/account/sign-out", post(sign_out))
        .route("/account/link/{secret}", get(link).post(use_link))
        .route("/account/locks", get(locks))
        .route("/account/locks/live", get(live))
        .route("/account/locks/history", get(history))
        .route("/account/locks/break", get(break_page).post(break_lock))
        .route("/account/tokens", get(tokens).post(create_token))
        .route("/account/tokens/{id}/rotate", get(rotate_page).post(rotate_token))
        .route("/account/tokens/{id}/revoke", post(revoke_token))
        .route("/account/plan", get(plan))
        .route("/account/plan/lease", post(set_lease))
        .route("/account/namespaces", post(create_namespace))
        .route("/account/namespaces/remove", post(delete_namespace))
        .route("/account/security", get(security))
        .route("/account/security/password", post(set_password))
        .route("/account/security/sessions", post(end_sessions))
        .route("/account/security/delete", get(delete_page).post(delete_account))
        .route("/account/audit", get(audit))
        .route("/account/audit.csv", get(audit_csv))
        .layer(middleware::from_fn_with_state(app.clone(), on_page_runtime));
    pages.merge(account_pages).fallback(no_page).layer(middleware::from_fn_with_state(app.clone(), headers))
}
