use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Redirect,
};
use serde::Deserialize;

use super::{
    error::Trouble,
    form::Form,
    layout::{Section, Shell},
    session::Member,
    template::Page,
    time::Moment,
};
use crate::{
    accounts::{NewToken, Scopes, TokenInfo, TokenRequest},
    app::App,
    limits::Attempt,
    lock::{Label, Namespace},
};

#[derive(Template)]
#[template(path = "tokens.html")]
pub(super) struct TokensPage {
    shell: Shell,
    tokens: Vec<TokenView>,
    /// How many there are on all pages, and how many the plan allows.
    live: u64,
    tokens_max: u64,
    is_first: bool,
    next: Option<String>,
    namespaces: Vec<Namespace>,
}

/// Which tokens to show.
#[derive(Deserialize)]
pub(super) struct TokensQuery {
    /// Those that were made after the one with this id; empty for the first.
    #[serde(default)]
    after: String,
}

struct TokenView {
    id: String,
    label: String,
    scopes: &'static str,
    namespace: String,
    made: Moment,
    last_used: Option<Moment>,
    ends: Option<Moment>,
}

#[derive(Template)]
#[template(path = "token_made.html")]
pub(super) struct TokenMadePage {
    shell: Shell,
    origin: String,
    token: String,
    label: String,
    can_lock: bool,
    /// Until when the one works whose place it takes.
    before_until: Option<Moment>,
}

#[derive(Template)]
#[template(path = "token_rotate.html")]
pub(super) struct RotatePage {
    shell: Shell,
    token: TokenView,
}

/// What a new token is to be.
#[derive(Deserialize)]
pub(super) struct Wanted {
    label: String,
    #[serde(default)]
    scope: Vec<String>,
    namespace: String,
}

#[derive(Deserialize)]
pub(super) struct Rotation {
    /// `hour` or `now`.
    old: String,
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// How long the old one of two works after a rotation: long enough for a deploy
/// that puts the new one everywhere.
const GRACE: Duration = Duration::from_secs(3600);

/// How many tokens a page shows.
const PAGE_TOKENS: usize = 50;

/// `GET /account/tokens`.
pub(super) async fn tokens(
    State(app): State<Arc<App>>,
    member: Member,
    Query(query): Query<TokensQuery>,
) -> Result<Page<TokensPage>, Trouble> {
    // One more tells whether there is another page.
    let mut tokens = app.database.list_live_tokens(member.account(), &query.after, PAGE_TOKENS + 1).await?;
    let has_next = tokens.len() > PAGE_TOKENS;
    tokens.truncate(PAGE_TOKENS);
    let next = tokens.last().filter(|_| has_next).map(|last| format!("/account/tokens?after={}", last.id));
    let live = app.database.count_live_tokens(member.account()).await?;
    let mut namespaces = member.namespaces(&app).await?;
    if !member.session.plan.private_namespaces {
        namespaces.truncate(1);
    }
    Ok(Page(TokensPage {
        shell: member.shell("Tokens", Section::Tokens),
        tokens: tokens.into_iter().map(TokenView::new).collect(),
        live,
        tokens_max: member.session.plan.tokens_max,
        is_first: query.after.is_empty(),
        next,
        namespaces,
    }))
}

/// `POST /account/tokens`: makes one. The answer shows it, this once.
pub(super) async fn make_token(
    State(app): State<Arc<App>>,
    Form { by: member, fields }: Form<Member, Wanted>,
) -> Result<Page<TokenMadePage>, Trouble> {
    member.may_act()?;
    let label = Label::parse(fields.label.trim())
        .map_err(|error| Trouble::malformed(format!("The label cannot be used: {error}.")))?;
    let has = |scope: &str| fields.scope.iter().any(|given| given == scope);
    let scopes = Scopes { lock: has("lock"), manage: has("manage") };
    if !scopes.lock && !scopes.manage {
        return Err(Trouble::malformed("A token is for something: choose what it may do."));
    }
    if fields.namespace != Namespace::PUBLIC && !member.session.plan.private_namespaces {
        return Err(Trouble::forbidden("The plan of this account has no private namespaces."));
    }
    member.may_change(&app, Attempt::TokenOf).await?;
    let request = TokenRequest { label: label.clone(), scopes, namespace: fields.namespace };
    let account = member.account().to_string();
    let made = app.database.create_token(member.session.actor(), &account, &request).await?;
    Ok(shown_once(&member, &made, label.as_str(), scopes, None))
}

/// `GET /account/tokens/{id}/rotate`.
pub(super) async fn ask_to_rotate(
    State(app): State<Arc<App>>,
    member: Member,
    Path(id): Path<String>,
) -> Result<Page<RotatePage>, Trouble> {
    let token = app.database.show_live_token(member.account(), &id).await?;
    Ok(Page(RotatePage { shell: member.shell("Rotate a token", Section::Tokens), token: TokenView::new(token) }))
}

/// `POST /account/tokens/{id}/rotate`.
pub(super) async fn rotate_token(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Form { by: member, fields }: Form<Member, Rotation>,
) -> Result<Page<TokenMadePage>, Trouble> {
    member.may_act()?;
    let grace = match fields.old.as_str() {
        "hour" => Some(GRACE),
        "now" => None,
        _ => return Err(Trouble::malformed("The old token works for an hour, or ends now.")),
    };
    let old = app.database.show_live_token(member.account(), &id).await?;
    member.may_change(&app, Attempt::TokenOf).await?;
    let made = app.database.rotate_token(member.session.actor(), member.account(), &id, grace).await?;
    let until = grace.map(|grace| Moment(Moment::now().0 + grace));
    Ok(shown_once(&member, &made, &old.label, old.scopes, until))
}

/// `POST /account/tokens/{id}/revoke`.
pub(super) async fn revoke_token(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Form { by: member, .. }: Form<Member, Nothing>,
) -> Result<Redirect, Trouble> {
    member.may_act()?;
    app.database.revoke_token(member.session.actor(), Some(member.account()), &id).await?;
    Ok(Redirect::to("/account/tokens"))
}

fn shown_once(
    member: &Member,
    made: &NewToken,
    label: &str,
    scopes: Scopes,
    before_until: Option<Moment>,
) -> Page<TokenMadePage> {
    Page(TokenMadePage {
        shell: member.shell("Your new token", Section::Tokens),
        origin: member.visitor.origin.clone(),
        token: made.token.reveal(),
        label: label.to_owned(),
        can_lock: scopes.lock,
        before_until,
    })
}

impl TokenView {
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
            made: Moment::of_ms(token.created_at),
            last_used: token.last_used_at.map(Moment::of_ms),
            ends: token.expires_at.map(Moment::of_ms),
        }
    }
}
