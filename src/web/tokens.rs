use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Redirect,
};
use serde::Deserialize;

use super::{
    error::PageError,
    form::{EmptyForm, Form},
    layout::{Layout, Section},
    session::SessionUser,
    template::HtmlPage,
    time::DisplayTime,
};
use crate::{
    accounts::{NewToken, Scopes, TokenInfo, TokenRequest},
    app::App,
    limits::LimitedAction,
    lock::{Label, Namespace},
};

#[derive(Template)]
#[template(path = "tokens.html")]
pub(super) struct TokensPage {
    layout: Layout,
    tokens: Vec<TokenRow>,
    /// Active tokens on all pages, and the plan's limit.
    active: u64,
    tokens_max: u64,
    is_first: bool,
    next: Option<String>,
    namespaces: Vec<Namespace>,
}

/// The query string of the list of tokens.
#[derive(Deserialize)]
pub(super) struct TokensQuery {
    /// Page cursor: the id of the last token shown; empty for the first page.
    #[serde(default)]
    after: String,
}

struct TokenRow {
    id: String,
    label: String,
    scopes: &'static str,
    namespace: String,
    created: DisplayTime,
    last_used: Option<DisplayTime>,
    expires: Option<DisplayTime>,
}

#[derive(Template)]
#[template(path = "token_created.html")]
pub(super) struct TokenCreatedPage {
    layout: Layout,
    origin: String,
    token: String,
    label: String,
    can_lock: bool,
    /// When the rotated token expires.
    old_valid_until: Option<DisplayTime>,
}

#[derive(Template)]
#[template(path = "token_rotate.html")]
pub(super) struct RotatePage {
    layout: Layout,
    token: TokenRow,
}

/// The form of a new token.
#[derive(Deserialize)]
pub(super) struct TokenForm {
    label: String,
    #[serde(default)]
    scope: Vec<String>,
    namespace: String,
}

#[derive(Deserialize)]
pub(super) struct RotateForm {
    /// `hour` or `now`.
    old: String,
}

/// The old token stays valid this long after a rotation: enough for a deployment of the new one.
const ROTATION_GRACE: Duration = Duration::from_secs(3600);

/// Tokens on one page.
const PAGE_TOKENS: usize = 50;

/// `GET /account/tokens`.
pub(super) async fn tokens(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Query(query): Query<TokensQuery>,
) -> Result<HtmlPage<TokensPage>, PageError> {
    // The extra token shows whether there is a next page.
    let mut tokens = app.database.list_live_tokens(user.account(), &query.after, PAGE_TOKENS + 1).await?;
    let has_next = tokens.len() > PAGE_TOKENS;
    tokens.truncate(PAGE_TOKENS);
    let next = tokens.last().filter(|_| has_next).map(|last| format!("/account/tokens?after={}", last.id));
    let active = app.database.count_live_tokens(user.account()).await?;
    let mut namespaces = user.namespaces(&app).await?;
    if !user.session.plan.private_namespaces {
        namespaces.truncate(1);
    }
    Ok(HtmlPage(TokensPage {
        layout: user.layout("Tokens", Section::Tokens),
        tokens: tokens.into_iter().map(TokenRow::new).collect(),
        active,
        tokens_max: user.session.plan.tokens_max,
        is_first: query.after.is_empty(),
        next,
        namespaces,
    }))
}

/// `POST /account/tokens`: creates a token. Only this response contains its secret.
pub(super) async fn create_token(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, TokenForm>,
) -> Result<HtmlPage<TokenCreatedPage>, PageError> {
    user.require_active()?;
    let label =
        Label::parse(fields.label.trim()).map_err(|error| PageError::malformed(format!("Invalid name: {error}.")))?;
    let has = |scope: &str| fields.scope.iter().any(|given| given == scope);
    let scopes = Scopes { lock: has("lock"), manage: has("manage") };
    if !scopes.lock && !scopes.manage {
        return Err(PageError::malformed("Select at least one scope."));
    }
    if fields.namespace != Namespace::PUBLIC && !user.session.plan.private_namespaces {
        return Err(PageError::forbidden("The plan of this account does not include private namespaces."));
    }
    user.require_change_allowed(&app, LimitedAction::TokenOf).await?;
    let request = TokenRequest { label: label.clone(), scopes, namespace: fields.namespace };
    let account = user.account().to_string();
    let made = app.database.create_token(user.session.actor(), &account, &request).await?;
    Ok(show_secret(&user, &made, label.as_str(), scopes, None))
}

/// `GET /account/tokens/{id}/rotate`.
pub(super) async fn rotate_page(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Path(id): Path<String>,
) -> Result<HtmlPage<RotatePage>, PageError> {
    let token = app.database.show_live_token(user.account(), &id).await?;
    Ok(HtmlPage(RotatePage { layout: user.layout("Rotate token", Section::Tokens), token: TokenRow::new(token) }))
}

/// `POST /account/tokens/{id}/rotate`.
pub(super) async fn rotate_token(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Form { by: user, fields }: Form<SessionUser, RotateForm>,
) -> Result<HtmlPage<TokenCreatedPage>, PageError> {
    user.require_active()?;
    let grace = match fields.old.as_str() {
        "hour" => Some(ROTATION_GRACE),
        "now" => None,
        _ => return Err(PageError::malformed("Select when the old token expires: in one hour, or now.")),
    };
    let old = app.database.show_live_token(user.account(), &id).await?;
    user.require_change_allowed(&app, LimitedAction::TokenOf).await?;
    let made = app.database.rotate_token(user.session.actor(), user.account(), &id, grace).await?;
    let until = grace.map(|grace| DisplayTime(DisplayTime::now().0 + grace));
    Ok(show_secret(&user, &made, &old.label, old.scopes, until))
}

/// `POST /account/tokens/{id}/revoke`.
pub(super) async fn revoke_token(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Form { by: user, .. }: Form<SessionUser, EmptyForm>,
) -> Result<Redirect, PageError> {
    user.require_active()?;
    app.database.revoke_token(user.session.actor(), Some(user.account()), &id).await?;
    Ok(Redirect::to("/account/tokens"))
}

fn show_secret(
    user: &SessionUser,
    made: &NewToken,
    label: &str,
    scopes: Scopes,
    old_valid_until: Option<DisplayTime>,
) -> HtmlPage<TokenCreatedPage> {
    HtmlPage(TokenCreatedPage {
        layout: user.layout("New token", Section::Tokens),
        origin: user.browser.origin.clone(),
        token: made.token.reveal(),
        label: label.to_owned(),
        can_lock: scopes.lock,
        old_valid_until,
    })
}

impl TokenRow {
    fn new(token: TokenInfo) -> Self {
        let scopes = match token.scopes {
            Scopes { lock: true, manage: true } => "lock, manage",
            Scopes { lock: true, manage: false } => "lock",
            Scopes { lock: false, manage: true } => "manage",
            Scopes { lock: false, manage: false } => "nothing",
        };
        Self {
            id: token.id,
            label: token.label,
            scopes,
            namespace: token.namespace,
            created: DisplayTime::from_ms(token.created_at),
            last_used: token.last_used_at.map(DisplayTime::from_ms),
            expires: token.expires_at.map(DisplayTime::from_ms),
        }
    }
}
