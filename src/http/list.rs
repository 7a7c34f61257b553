use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    caller::{Authorized, CanRead},
    cursor,
    lock::HolderView,
    openapi::Problems,
    params::ListParams,
    problem::Problem,
};
use crate::{
    accounts::Caller,
    app::App,
    lock::{Holder, Namespace, NamespaceId},
    locks::{ListRequest, LockKey, LockPage, ReadOutcome},
};

/// A page of the account's held locks, ordered by expiry.
#[derive(Serialize, ToSchema)]
pub(super) struct PageView<'a> {
    locks: Vec<HeldView<'a>>,
    /// `cursor` of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// A held lock of the account.
#[derive(Serialize, ToSchema)]
pub(super) struct HeldView<'a> {
    name: &'a str,
    namespace: &'a str,
    holder: HolderView<'a>,
}

/// `GET /v1/locks`.
#[utoipa::path(
    get,
    path = "/v1/locks",
    tag = "inspection",
    summary = "List the account's held locks",
    description = "Returns the locks in the order of their expiry. A lock that is renewed between two requests may be on both pages. Every 20 locks read are charged as one request. A page ends early when the rate is used up or when the prefix matches few locks; continue with `next_cursor`.",
    params(ListParams),
    responses((status = 200, description = "Page of locks", body = PageView<'static>), Problems),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Authorized<CanRead>,
    params: ListParams,
) -> Result<Response, Problem> {
    let account = caller.account();
    let namespace = params.namespace.as_deref().map(|name| caller.namespace(Some(name))).transpose()?;
    let request = ListRequest {
        account: account.account,
        namespace: namespace.map(|namespace| namespace.id),
        prefix: params.prefix,
        limit: params.limit,
        after: params.cursor,
    };
    let page = read(&app, &caller, request).await?;
    let locks = page.locks.iter().filter_map(|(lock, holder)| HeldView::new(account, lock, holder)).collect();
    Ok(Json(PageView { locks, next_cursor: page.next.as_ref().map(cursor::text) }).into_response())
}

/// Reads a page. Each step is charged as a request; the page ends when the rate is used up, and the next
/// one continues there.
async fn read(app: &App, caller: &Authorized<CanRead>, request: ListRequest) -> Result<LockPage, Problem> {
    let mut listing = app.locks.list(request);
    match caller.record_rate(listing.step(&caller.charge()).await?) {
        ReadOutcome::Found(()) => {}
        ReadOutcome::RateLimited { retry_after } => return Err(caller.rate_limited(app, retry_after)),
    }
    while !listing.is_done() {
        let Some(charge) = caller.charge_again(app).await? else { break };
        if let ReadOutcome::RateLimited { .. } = caller.record_rate(listing.step(&charge).await?) {
            break;
        }
    }
    Ok(listing.into_page())
}

impl<'a> HeldView<'a> {
    /// `None` for a lock in a deleted namespace, which has no name.
    fn new(account: &'a Caller, lock: &'a LockKey, holder: &'a Holder) -> Option<Self> {
        let namespace = match lock.namespace {
            NamespaceId::Public => Namespace::PUBLIC,
            id => &account.namespaces.iter().find(|namespace| namespace.id == id)?.name,
        };
        Some(Self { name: lock.name.as_str(), namespace, holder: HolderView::new(holder) })
    }
}
