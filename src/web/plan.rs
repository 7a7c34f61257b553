use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Redirect};
use serde::Deserialize;

use super::{
    chart::Chart,
    error::Trouble,
    form::Form,
    layout::{Section, Shell},
    session::Member,
    template::Page,
};
use crate::{
    accounts::{NamespaceInfo, Plan},
    app::App,
    limits::Attempt,
    lock::{Lease, Payment, parse_duration_ms},
    locks::{Census, Looked},
};

#[derive(Template)]
#[template(path = "plan.html")]
pub(super) struct PlanPage {
    shell: Shell,
    plan: Plan,
    figures: Figures,
    chart: Chart,
    /// What requests get that ask for no lease.
    lease: Lease,
    has_own_lease: bool,
    can_choose_lease: bool,
    namespaces: Vec<NamespaceInfo>,
    /// Plans that have what this one lacks.
    with_leases: Vec<String>,
    with_namespaces: Vec<String>,
}

/// What is used and what the plan allows, as people read numbers.
struct Figures {
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
pub(super) struct OwnLease {
    /// Empty for the plan's.
    lease: String,
}

/// `GET /account/plan`: what the plan allows beside what is used.
pub(super) async fn plan(State(app): State<Arc<App>>, member: Member) -> Result<Page<PlanPage>, Trouble> {
    let census = match app.locks.census(member.account(), &Payment::Paid).await?.outcome {
        Looked::Found(census) => census,
        // Pages have a rate of their own.
        Looked::RateLimited { retry_after } => return Err(Trouble::too_many(retry_after)),
    };
    let chart = Chart::new(&app.locks.activity(member.account()).await?);
    let namespaces = app.database.list_namespaces(&member.account().to_string()).await?;
    let tokens = app.database.count_live_tokens(member.account()).await?;
    let plans = app.database.list_plans().await?;
    let names = |has: fn(&Plan) -> bool| plans.iter().filter(|plan| has(plan)).map(|plan| plan.name.clone()).collect();
    let plan = member.session.plan.clone();
    let own = member.session.account.lease_ms.map(|ms| Lease::from_ms(ms.max(0) as u64));
    let lease = own.unwrap_or(plan.lease_default).max(plan.lease_min).min(plan.lease_max);
    Ok(Page(PlanPage {
        shell: member.shell("Plan", Section::Plan),
        figures: Figures::new(&plan, census, tokens),
        chart,
        lease,
        has_own_lease: own.is_some(),
        can_choose_lease: chooses_lease(&plan),
        namespaces,
        with_leases: names(chooses_lease),
        with_namespaces: names(|plan| plan.private_namespaces),
        plan,
    }))
}

impl Figures {
    fn new(plan: &Plan, census: Census, tokens: u64) -> Self {
        Self {
            held: grouped(census.held),
            locks_max: grouped(plan.locks_max),
            waiting: grouped(census.waiting),
            waiters_max: grouped(plan.waiters_max),
            tokens: grouped(tokens),
            tokens_max: grouped(plan.tokens_max),
            per_second: grouped(plan.rate.per_second),
            burst: grouped(plan.rate.burst),
        }
    }
}

/// With a comma before every three digits.
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
    Form { by: member, fields }: Form<Member, OwnLease>,
) -> Result<Redirect, Trouble> {
    member.may_act()?;
    let lease = match fields.lease.trim() {
        "" => None,
        text => {
            let ms = parse_duration_ms(text);
            Some(Lease::from_ms(ms.map_err(|error| Trouble::malformed(format!("This is no lease: {error}.")))?))
        }
    };
    member.may_change(&app, Attempt::ChangeOf).await?;
    app.database.set_lease(member.session.actor(), &member.account().to_string(), lease).await?;
    Ok(Redirect::to("/account/plan"))
}
