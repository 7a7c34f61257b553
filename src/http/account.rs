use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    caller::{Authorized, CanRead},
    openapi::Problems,
    problem::Problem,
    responses::optional_rfc_3339,
};
use crate::{
    accounts::{Caller, Plan},
    app::App,
    lock::{Lease, Namespace, NamespaceId},
    locks::{ReadOutcome, Usage},
};

/// The limits and the usage of an account.
#[derive(Serialize, ToSchema)]
pub(super) struct AccountView<'a> {
    plan: PlanView<'a>,
    /// Lease of requests without `lease`.
    lease_ms: u64,
    namespaces: Vec<&'a str>,
    /// Namespace of requests without `namespace`; `null` if it was deleted.
    default_namespace: Option<&'a str>,
    token: TokenView<'a>,
    locks_held: u64,
    requests_waiting: u64,
    /// During a recovery: the earliest time at which all locks can be granted. Omitted otherwise.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_rfc_3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    recovering_until: Option<Timestamp>,
}

/// The limits of a plan.
#[derive(Serialize, ToSchema)]
pub(super) struct PlanView<'a> {
    name: &'a str,
    lease_default_ms: u64,
    lease_min_ms: u64,
    lease_max_ms: u64,
    /// Requests per second of all tokens of the account together; `burst` is allowed at once.
    rate_per_second: u32,
    burst: u32,
    locks_max: u64,
    waiting_max: u64,
    tokens_max: u64,
    private_namespaces: bool,
}

/// The token of the request.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenView<'a> {
    label: &'a str,
    scopes: Vec<&'static str>,
}

/// `GET /v1/account`.
#[utoipa::path(
    get,
    path = "/v1/account",
    tag = "inspection",
    summary = "Inspect the account",
    description = "Returns the plan, the namespaces and the usage of the account.",
    responses((status = 200, description = "Account", body = AccountView<'static>), Problems),
)]
pub(super) async fn account(State(app): State<Arc<App>>, caller: Authorized<CanRead>) -> Result<Response, Problem> {
    let account = caller.account();
    match caller.record_rate(app.locks.usage(account.account, &caller.charge()).await?) {
        ReadOutcome::Found(usage) => {
            Ok(Json(AccountView::new(account, usage, app.locks.all_recovered_at())).into_response())
        }
        ReadOutcome::RateLimited { retry_after } => Err(caller.rate_limited(&app, retry_after)),
    }
}

impl<'a> AccountView<'a> {
    fn new(caller: &'a Caller, usage: Usage, recovering_until: Option<Timestamp>) -> Self {
        let private = caller.namespaces.iter().filter(|_| caller.plan.private_namespaces);
        let default_namespace = match caller.default_namespace {
            NamespaceId::Public => Some(Namespace::PUBLIC),
            id => caller.namespaces.iter().find(|namespace| namespace.id == id).map(|found| found.name.as_str()),
        };
        let scopes = [("lock", caller.scopes.lock), ("manage", caller.scopes.manage)];
        Self {
            plan: PlanView::new(&caller.plan),
            lease_ms: caller.lease(None).map_or(0, Lease::as_ms),
            namespaces: std::iter::once(Namespace::PUBLIC).chain(private.map(|found| found.name.as_str())).collect(),
            default_namespace,
            token: TokenView {
                label: caller.label.as_str(),
                scopes: scopes.into_iter().filter_map(|(scope, has)| has.then_some(scope)).collect(),
            },
            locks_held: usage.held,
            requests_waiting: usage.waiting,
            recovering_until,
        }
    }
}

impl<'a> PlanView<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            name: &plan.name,
            lease_default_ms: plan.lease_default.as_ms(),
            lease_min_ms: plan.lease_min.as_ms(),
            lease_max_ms: plan.lease_max.as_ms(),
            rate_per_second: plan.rate.per_second,
            burst: plan.rate.burst,
            locks_max: plan.locks_max,
            waiting_max: plan.waiters_max,
            tokens_max: plan.tokens_max,
            private_namespaces: plan.private_namespaces,
        }
    }
}
