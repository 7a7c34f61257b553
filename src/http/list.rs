use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    caller::{Authorized, Look},
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
    locks::{ListRequest, LockId, Looked, Page as LockPage},
};

/// Some of the locks that the account holds, those that lapse first first.
#[derive(Serialize, ToSchema)]
pub(super) struct PageView<'a> {
    locks: Vec<HeldView<'a>>,
    /// What to send as `cursor` for the next page; `null` on the last.
    next_cursor: Option<String>,
}

/// A lock that the account holds.
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
    tag = "looking",
    summary = "The locks that the account holds",
    description = "Those that lapse first come first. A lock that is renewed between two pages may stand on both. Each 20 locks that are read count as one request of the rate; a page ends early where the rate does, or where a prefix fits few locks: go on with `next_cursor`.",
    params(ListParams),
    responses((status = 200, description = "A page", body = PageView<'static>), Problems),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Authorized<Look>,
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

/// Reads a page, each step of which counts as a request. It ends where the rate does: the
/// next page goes on from there.
async fn read(app: &App, caller: &Authorized<Look>, request: ListRequest) -> Result<LockPage, Problem> {
    let mut listing = app.locks.list(request);
    match caller.settle(listing.step(&caller.payment()).await?) {
        Looked::Found(()) => {}
        Looked::RateLimited { retry_after } => return Err(caller.rate_limited(app, retry_after)),
    }
    while !listing.is_done() {
        let Some(payment) = caller.pay_again(app).await? else { break };
        if let Looked::RateLimited { .. } = caller.settle(listing.step(&payment).await?) {
            break;
        }
    }
    Ok(listing.into_page())
}

impl<'a> HeldView<'a> {
    /// `None` for what is in a namespace that was taken away, and has no name.
    fn new(account: &'a Caller, lock: &'a LockId, holder: &'a Holder) -> Option<Self> {
        let namespace = match lock.namespace {
            NamespaceId::Public => Namespace::PUBLIC,
            id => &account.namespaces.iter().find(|namespace| namespace.id == id)?.name,
        };
        Some(Self { name: lock.name.as_str(), namespace, holder: HolderView::new(holder) })
    }
}
