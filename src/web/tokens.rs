use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Redirect,
};
use serde::Deserialize;

use super::{
    form::Form,
    member::Member,
    page::Page,
    time::Moment,
    trouble::Trouble,
    view::{Section, Shell},
};
use crate::{
    accounts::{NewToken, Scopes, TokenInfo, TokenRequest},
    app::App,
    lock::{Label, Namespace},
};

#[derive(Template)]
#[template(path = "tokens.html")]
pub(super) struct TokensPage {
    shell: Shell,
    tokens: Vec<TokenView>,
    namespaces: Vec<Namespace>,
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

/// `GET /account/tokens`.
pub(super) async fn tokens(State(app): State<Arc<App>>, member: Member) -> Result<Page<TokensPage>, Trouble> {
    let tokens = in_force(&app, &member).await?;
    let mut namespaces = member.namespaces(&app).await?;
    if !member.session.plan.private_namespaces {
        namespaces.truncate(1);
    }
    Ok(Page(TokensPage { shell: member.shell("Tokens", Section::Tokens), tokens, namespaces }))
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
    let token = find(&app, &member, &id).await?;
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
    let old = find(&app, &member, &id).await?;
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

async fn in_force(app: &App, member: &Member) -> Result<Vec<TokenView>, Trouble> {
    let now_ms = Moment::now().0.as_millisecond();
    let tokens = app.database.list_tokens(&member.account().to_string()).await?;
    let is_in_force = |token: &TokenInfo| token.revoked_at.is_none() && token.expires_at.is_none_or(|end| now_ms < end);
    Ok(tokens.into_iter().filter(is_in_force).map(TokenView::new).collect())
}

async fn find(app: &App, member: &Member, id: &str) -> Result<TokenInfo, Trouble> {
    let tokens = app.database.list_tokens(&member.account().to_string()).await?;
    let found = tokens.into_iter().find(|token| token.id == id && token.revoked_at.is_none());
    found.ok_or_else(|| Trouble::not_found("This account has no such token in force."))
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
