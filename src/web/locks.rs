use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{
    error::Trouble,
    layout::{Section, Shell},
    session::{Member, find_namespace, name_of},
    template::Page,
    time::Moment,
};
use crate::{
    app::App,
    http::{cursor_text, parse_cursor},
    lock::{AccountId, Holder, Namespace, Owner},
    locks::{Crowd, ListRequest, LockId, Page as LockPage, Waiter},
};

/// Which locks to show.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct LocksQuery {
    /// Empty for all.
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub prefix: String,
    #[serde(default)]
    pub cursor: String,
}

#[derive(Template)]
#[template(path = "locks.html")]
pub(super) struct LocksPage {
    shell: Shell,
    query: LocksQuery,
    namespaces: Vec<Namespace>,
    live: String,
    rows: Rows,
}

/// What changes while somebody looks.
#[derive(Template)]
#[template(path = "lock_rows.html")]
pub(super) struct Rows {
    locks: Vec<LockView>,
    next: Option<String>,
    is_first: bool,
    is_narrowed: bool,
}

struct LockView {
    name: String,
    namespace: String,
    holder: HolderView,
    waiting: u64,
    first: Vec<WaiterView>,
    /// Behind the address of a page about this lock.
    query: String,
}

/// Whose a lock is.
pub(super) struct HolderView {
    pub owner: String,
    pub label: String,
    pub note: String,
    pub fence: String,
    pub since: Moment,
    pub until: Moment,
}

struct WaiterView {
    owner: String,
    label: String,
    note: String,
    is_own: bool,
}

impl Rows {
    /// How many locks a page shows.
    const COUNT_MAX: usize = 35;

    /// Those that an account holds.
    pub(super) async fn read(
        app: &App,
        account: AccountId,
        namespaces: &[Namespace],
        query: &LocksQuery,
    ) -> Result<Self, Trouble> {
        let within = match query.namespace.as_str() {
            "" => None,
            name => Some(find_namespace(namespaces, name)?.id),
        };
        let after = match query.cursor.as_str() {
            "" => None,
            text => Some(parse_cursor(text.to_owned()).map_err(|_| Trouble::malformed("There is no such page."))?),
        };
        let request =
            ListRequest { account, namespace: within, prefix: query.prefix.clone(), limit: Self::COUNT_MAX, after };
        // Pages have a rate of their own.
        let page = app.locks.list_uncounted(request).await?;
        let ids: Vec<LockId> = page.locks.iter().map(|(lock, _)| lock.clone()).collect();
        let crowds = app.locks.crowds(account, &ids).await?;
        Ok(Self::new(&page, crowds, namespaces, query))
    }

    fn new(page: &LockPage, crowds: Vec<Crowd>, namespaces: &[Namespace], query: &LocksQuery) -> Self {
        let lock = |((lock, holder), crowd): (&(LockId, Holder), Crowd)| LockView::new(lock, holder, crowd, namespaces);
        let next = page.next.as_ref().map(|cursor| {
            let next = LocksQuery { cursor: cursor_text(cursor), ..query.clone() };
            format!("/account/locks?{}", next.text())
        });
        Self {
            locks: page.locks.iter().zip(crowds).map(lock).collect(),
            next,
            is_first: query.cursor.is_empty(),
            is_narrowed: !(query.namespace.is_empty() && query.prefix.is_empty()),
        }
    }

    /// What two of them differ in if anything has changed but the time.
    pub(super) fn gist(&self) -> String {
        let lock = |lock: &LockView| {
            let waiters =
                lock.first.iter().map(|waiter| format!("{}\t{}\t{}\n", waiter.owner, waiter.label, waiter.note));
            let HolderView { fence, until, note, .. } = &lock.holder;
            format!(
                "{}\n{fence}\n{}\n{note}\n{}\n{}",
                lock.query,
                until.exact(),
                lock.waiting,
                waiters.collect::<String>()
            )
        };
        self.locks.iter().map(lock).collect()
    }
}

impl LocksQuery {
    /// As it stands behind an address.
    fn text(&self) -> String {
        let fields = [("namespace", &self.namespace), ("prefix", &self.prefix), ("cursor", &self.cursor)];
        let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
        form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
    }
}

impl LockView {
    fn new(lock: &LockId, holder: &Holder, crowd: Crowd, namespaces: &[Namespace]) -> Self {
        let namespace = name_of(namespaces, lock.namespace).to_owned();
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("namespace", &namespace)
            .append_pair("name", lock.name.as_str())
            .finish();
        Self {
            name: lock.name.as_str().to_owned(),
            namespace,
            holder: HolderView::new(holder),
            waiting: crowd.waiting,
            first: crowd.first.into_iter().map(WaiterView::new).collect(),
            query,
        }
    }

    fn more_waiting(&self) -> u64 {
        self.waiting.saturating_sub(self.first.len() as u64)
    }
}

impl HolderView {
    pub(super) fn new(holder: &Holder) -> Self {
        Self {
            owner: holder.owner.as_ref().map_or("", Owner::as_str).to_owned(),
            label: holder.label.as_str().to_owned(),
            note: holder.note.as_str().to_owned(),
            fence: holder.fence.to_string(),
            since: Moment(holder.acquired_at),
            until: Moment(holder.expires_at),
        }
    }
}

impl WaiterView {
    fn new(waiter: Waiter) -> Self {
        match waiter {
            Waiter::Own { owner, label, note } => Self { owner, label, note, is_own: true },
            Waiter::OfAnother => {
                Self { owner: String::new(), label: String::new(), note: String::new(), is_own: false }
            }
        }
    }
}

/// `GET /account/locks`.
pub(super) async fn locks(
    State(app): State<Arc<App>>,
    member: Member,
    Query(query): Query<LocksQuery>,
) -> Result<Page<LocksPage>, Trouble> {
    let namespaces = member.namespaces(&app).await?;
    let rows = Rows::read(&app, member.account(), &namespaces, &query).await?;
    let live = format!("/account/locks/live?{}", query.text());
    Ok(Page(LocksPage { shell: member.shell("Locks", Section::Locks), query, namespaces, live, rows }))
}
