use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{
    error::PageError,
    layout::{Layout, Section},
    session::{SessionUser, find_namespace, name_of},
    template::HtmlPage,
    time::DisplayTime,
};
use crate::{
    app::App,
    http::{cursor_text, parse_cursor},
    lock::{AccountId, Holder, Namespace, Owner},
    locks::{ListRequest, LockKey, LockPage, Waiter, WaiterList},
};

/// The query string of the list of locks.
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
    layout: Layout,
    query: LocksQuery,
    namespaces: Vec<Namespace>,
    live: String,
    rows: LockRows,
}

/// The part of the page that live updates replace.
#[derive(Template)]
#[template(path = "lock_rows.html")]
pub(super) struct LockRows {
    locks: Vec<LockRow>,
    next: Option<String>,
    is_first: bool,
    is_filtered: bool,
}

struct LockRow {
    name: String,
    namespace: String,
    holder: HolderDetails,
    waiting: u64,
    first: Vec<WaiterRow>,
    /// The query string of the pages about this lock.
    query: String,
}

/// The holder of a lock, as pages show it.
pub(super) struct HolderDetails {
    pub owner: String,
    pub label: String,
    pub note: String,
    pub fence: String,
    pub since: DisplayTime,
    pub until: DisplayTime,
}

struct WaiterRow {
    owner: String,
    label: String,
    note: String,
    is_own: bool,
}

impl LockRows {
    /// Locks on one page.
    const PAGE_LOCKS: usize = 35;

    /// Reads the locks that an account holds.
    pub(super) async fn read(
        app: &App,
        account: AccountId,
        namespaces: &[Namespace],
        query: &LocksQuery,
    ) -> Result<Self, PageError> {
        let within = match query.namespace.as_str() {
            "" => None,
            name => Some(find_namespace(namespaces, name)?.id),
        };
        let after = match query.cursor.as_str() {
            "" => None,
            text => Some(parse_cursor(text.to_owned()).map_err(|_| PageError::malformed("Invalid page cursor."))?),
        };
        let request =
            ListRequest { account, namespace: within, prefix: query.prefix.clone(), limit: Self::PAGE_LOCKS, after };
        // Uncounted: pages are limited by `SessionUser::RATE`.
        let page = app.locks.list_uncounted(request).await?;
        let ids: Vec<LockKey> = page.locks.iter().map(|(lock, _)| lock.clone()).collect();
        let waiters = app.locks.list_waiters(account, &ids).await?;
        Ok(Self::new(&page, waiters, namespaces, query))
    }

    fn new(page: &LockPage, waiters: Vec<WaiterList>, namespaces: &[Namespace], query: &LocksQuery) -> Self {
        let lock = |((lock, holder), waiters): (&(LockKey, Holder), WaiterList)| {
            LockRow::new(lock, holder, waiters, namespaces)
        };
        let next = page.next.as_ref().map(|cursor| {
            let next = LocksQuery { cursor: cursor_text(cursor), ..query.clone() };
            format!("/account/locks?{}", next.encode())
        });
        Self {
            locks: page.locks.iter().zip(waiters).map(lock).collect(),
            next,
            is_first: query.cursor.is_empty(),
            is_filtered: !(query.namespace.is_empty() && query.prefix.is_empty()),
        }
    }

    /// Differs between two lists if anything but the current time differs.
    pub(super) fn fingerprint(&self) -> String {
        let lock = |lock: &LockRow| {
            let waiters =
                lock.first.iter().map(|waiter| format!("{}\t{}\t{}\n", waiter.owner, waiter.label, waiter.note));
            let HolderDetails { fence, until, note, .. } = &lock.holder;
            format!(
                "{}\n{fence}\n{}\n{note}\n{}\n{}",
                lock.query,
                until.rfc3339(),
                lock.waiting,
                waiters.collect::<String>()
            )
        };
        self.locks.iter().map(lock).collect()
    }
}

impl LocksQuery {
    /// Encodes the query string.
    fn encode(&self) -> String {
        let fields = [("namespace", &self.namespace), ("prefix", &self.prefix), ("cursor", &self.cursor)];
        let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
        form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
    }
}

impl LockRow {
    fn new(lock: &LockKey, holder: &Holder, waiters: WaiterList, namespaces: &[Namespace]) -> Self {
        let namespace = name_of(namespaces, lock.namespace).to_owned();
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("namespace", &namespace)
            .append_pair("name", lock.name.as_str())
            .finish();
        Self {
            name: lock.name.as_str().to_owned(),
            namespace,
            holder: HolderDetails::new(holder),
            waiting: waiters.waiting,
            first: waiters.first.into_iter().map(WaiterRow::new).collect(),
            query,
        }
    }

    fn more_waiting(&self) -> u64 {
        self.waiting.saturating_sub(self.first.len() as u64)
    }
}

impl HolderDetails {
    pub(super) fn new(holder: &Holder) -> Self {
        Self {
            owner: holder.owner.as_ref().map_or("", Owner::as_str).to_owned(),
            label: holder.label.as_str().to_owned(),
            note: holder.note.as_str().to_owned(),
            fence: holder.fence.to_string(),
            since: DisplayTime(holder.acquired_at),
            until: DisplayTime(holder.expires_at),
        }
    }
}

impl WaiterRow {
    fn new(waiter: Waiter) -> Self {
        match waiter {
            Waiter::Own { owner, label, note } => Self { owner, label, note, is_own: true },
            Waiter::OfAnotherAccount => {
                Self { owner: String::new(), label: String::new(), note: String::new(), is_own: false }
            }
        }
    }
}

/// `GET /account/locks`.
pub(super) async fn locks(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Query(query): Query<LocksQuery>,
) -> Result<HtmlPage<LocksPage>, PageError> {
    let namespaces = user.namespaces(&app).await?;
    let rows = LockRows::read(&app, user.account(), &namespaces, &query).await?;
    let live = format!("/account/locks/live?{}", query.encode());
    Ok(HtmlPage(LocksPage { layout: user.layout("Locks", Section::Locks), query, namespaces, live, rows }))
}
