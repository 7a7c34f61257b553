use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Redirect};
use serde::Deserialize;

use super::{
    chart::Chart,
    error::PageError,
    form::Form,
    layout::{Layout, Section},
    session::SessionUser,
    template::HtmlPage,
};
use crate::{
    accounts::{NamespaceInfo, Plan},
    app::App,
    limits::LimitedAction,
    lock::{Lease, RateCharge, parse_duration_ms},
    locks::{ReadOutcome, Usage},
};

#[derive(Template)]
#[template(path = "plan.html")]
pub(super) struct PlanPage {
    layout: Layout,
    plan: Plan,
    usage: PlanUsage,
    chart: Chart,
    /// The lease of requests without the parameter `lease`.
    lease: Lease,
    has_own_lease: bool,
    can_choose_lease: bool,
    namespaces: Vec<NamespaceInfo>,
    /// Names of the plans that have the feature.
    plans_with_leases: Vec<String>,
    plans_with_namespaces: Vec<String>,
}

/// Usage and the plan's limits, formatted with thousands separators.
struct PlanUsage {
    held: String,
    locks_max: String,
    waiting: String,
    waiters_max: String,
    tokens: String,
    tokens_max: String,
    per_second: String,
    burst: String,
}

#[derive(Deserialize)]
pub(super) struct LeaseForm {
    /// Empty for the plan's default.
    lease: String,
}

/// `GET /account/plan`: usage and the plan's limits.
pub(super) async fn plan(State(app): State<Arc<App>>, user: SessionUser) -> Result<HtmlPage<PlanPage>, PageError> {
    let usage = match app.locks.usage(user.account(), &RateCharge::Done).await?.outcome {
        ReadOutcome::Found(usage) => usage,
        // Unreachable with `Paid`: pages are limited by `SessionUser::RATE`.
        ReadOutcome::RateLimited { retry_after } => return Err(PageError::too_many(retry_after)),
    };
    let chart = Chart::new(&app.locks.activity(user.account()).await?);
    let namespaces = app.database.list_namespaces(&user.account().to_string()).await?;
    let tokens = app.database.count_live_tokens(user.account()).await?;
    let plans = app.database.list_plans().await?;
    let names = |has: fn(&Plan) -> bool| plans.iter().filter(|plan| has(plan)).map(|plan| plan.name.clone()).collect();
    let plan = user.session.plan.clone();
    let own = user.session.account.lease_ms.map(|ms| Lease::from_ms(ms.max(0) as u64));
    let lease = own.unwrap_or(plan.lease_default).max(plan.lease_min).min(plan.lease_max);
    Ok(HtmlPage(PlanPage {
        layout: user.layout("Plan", Section::Plan),
        usage: PlanUsage::new(&plan, usage, tokens),
        chart,
        lease,
        has_own_lease: own.is_some(),
        can_choose_lease: chooses_lease(&plan),
        namespaces,
        plans_with_leases: names(chooses_lease),
        plans_with_namespaces: names(|plan| plan.private_namespaces),
        plan,
    }))
}

impl PlanUsage {
    fn new(plan: &Plan, usage: Usage, tokens: u64) -> Self {
        Self {
            held: grouped(usage.held),
            locks_max: grouped(plan.locks_max),
            waiting: grouped(usage.waiting),
            waiters_max: grouped(plan.waiters_max),
            tokens: grouped(tokens),
            tokens_max: grouped(plan.tokens_max),
            per_second: grouped(plan.rate.per_second),
            burst: grouped(plan.rate.burst),
        }
    }
}

/// Formats a number with a comma before every three digits.
fn grouped(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn chooses_lease(plan: &Plan) -> bool {
    plan.lease_min < plan.lease_max
}

/// `POST /account/plan/lease`.
pub(super) async fn set_lease(
    State(app): State<Arc<App>>,
    Form { by: user, fields }: Form<SessionUser, LeaseForm>,
) -> Result<Redirect, PageError> {
    user.require_active()?;
    let lease = match fields.lease.trim() {
        "" => None,
        text => {
            let ms = parse_duration_ms(text);
            Some(Lease::from_ms(ms.map_err(|error| PageError::malformed(format!("Invalid lease: {error}.")))?))
        }
    };
    user.require_change_allowed(&app, LimitedAction::ChangeOf).await?;
    app.database.set_lease(user.session.actor(), &user.account().to_string(), lease).await?;
    Ok(Redirect::to("/account/plan"))
}
