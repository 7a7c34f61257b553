use std::{io, sync::Arc, time::Duration};

use askama::Template;
use axum::{
    body::Body,
    extract::{Query, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use super::{
    aside::parts,
    error::Trouble,
    layout::{Section, Shell},
    session::Member,
    template::Page,
    time::Moment,
};
use crate::{
    accounts::{AccountsError, AuditFilter, AuditRow},
    app::App,
    limits::Share,
    lock::AccountId,
};

/// Which rows to show.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct AuditQuery {
    /// One of [`KINDS`]; empty for all.
    #[serde(default)]
    kind: String,
    /// Behind which row: its time and its id, with a point between them.
    #[serde(default)]
    before: String,
}

/// What happens to an account, by what actions begin with.
const KINDS: [(&str, &str); 6] = [
    ("account.", "Sign-ins and the account"),
    ("session.", "Ended sessions"),
    ("token.", "Tokens"),
    ("lock.", "Locks"),
    ("namespace.", "Namespaces"),
    ("account.set", "Plan, lease and password"),
];

/// How many rows a page shows, and how many go into one file.
const PAGE_ROWS: usize = 50;
const FILE_ROWS_MAX: usize = 10_000;
/// How many of them are in memory at once.
const PART_ROWS: usize = 200;
/// How long a file may take to be fetched.
const FILE_LIFE: Duration = Duration::from_secs(60);

#[derive(Template)]
#[template(path = "audit.html")]
pub(super) struct AuditPage {
    shell: Shell,
    kinds: [(&'static str, &'static str); 6],
    kind: String,
    rows: Vec<RowView>,
    next: Option<String>,
    is_first: bool,
}

struct RowView {
    at: Moment,
    action: String,
    actor: String,
    detail: Vec<(String, String)>,
}

/// `GET /account/audit`.
pub(super) async fn audit(
    State(app): State<Arc<App>>,
    member: Member,
    Query(query): Query<AuditQuery>,
) -> Result<Page<AuditPage>, Trouble> {
    let filter = query.filter()?;
    let read = app.database.read_audit(member.account(), &filter, PAGE_ROWS).await?;
    let next = read.next.map(|(at, id)| {
        let text = form_urlencoded::Serializer::new(String::new())
            .append_pair("kind", &query.kind)
            .append_pair("before", &format!("{at}.{id}"))
            .finish();
        format!("/account/audit?{text}")
    });
    Ok(Page(AuditPage {
        shell: member.shell("Audit log", Section::Audit),
        kinds: KINDS,
        rows: read.rows.into_iter().map(|row| RowView::new(row, &member)).collect(),
        next,
        is_first: query.before.is_empty(),
        kind: query.kind,
    }))
}

/// `GET /account/audit.csv`: the same for spreadsheets, the newest
/// [`FILE_ROWS_MAX`] rows. No cell begins with what strangers write, which a
/// spreadsheet might take for a formula: details are JSON.
pub(super) async fn audit_csv(
    State(app): State<Arc<App>>,
    member: Member,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Trouble> {
    let (filter, account) = (query.filter()?, member.account());
    let place = app.page.files_of.admit(account).zip(app.page.files.clone().try_acquire_owned().ok());
    let place = place.ok_or_else(|| Trouble::too_many(FILE_LIFE))?;
    let mut file = File { app, account, filter, rows: 0, is_begun: false, is_ended: false, _place: place };
    // Until there is a first part it can be said that there is no file.
    let first = file.next().await?;
    let parts = parts(|taken| async move {
        let writing = file.write(first, &taken);
        if timeout(FILE_LIFE, writing).await.is_err() {
            tracing::debug!("a file was not fetched in time");
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"lockable-audit.csv\"")),
    ];
    Ok((headers, Body::from_stream(until_end(parts))).into_response())
}

/// A file while it is made.
struct File {
    app: Arc<App>,
    account: AccountId,
    filter: AuditFilter,
    /// How many there are so far.
    rows: usize,
    is_begun: bool,
    is_ended: bool,
    /// Its place among those that are made.
    _place: (Share<AccountId>, OwnedSemaphorePermit),
}

/// A part of a file. One that ends without [`Part::End`] has been cut off, and whoever
/// fetches it has to see that.
enum Part {
    Rows(Vec<u8>),
    End,
}

impl File {
    /// Sends all parts of the file, of which the first is there.
    async fn write(&mut self, first: Vec<u8>, taken: &mpsc::Sender<Part>) {
        let mut part = first;
        while taken.send(Part::Rows(part)).await.is_ok() {
            if self.is_ended {
                let _ = taken.send(Part::End).await;
                return;
            }
            part = match self.next().await {
                Ok(part) => part,
                Err(error) => {
                    tracing::warn!(%error, "a file could not be read to its end");
                    return;
                }
            };
        }
    }

    /// The next rows.
    async fn next(&mut self) -> Result<Vec<u8>, AccountsError> {
        let wanted = PART_ROWS.min(FILE_ROWS_MAX - self.rows);
        let read = self.app.database.read_audit(self.account, &self.filter, wanted).await?;
        self.rows += read.rows.len();
        self.is_ended = read.next.is_none() || self.rows >= FILE_ROWS_MAX;
        self.filter.before = read.next;
        let mut lines = csv::Writer::from_writer(Vec::new());
        let mut write = |cells: [&str; 4]| lines.write_record(cells);
        // Into memory nothing can fail.
        let _ = if self.is_begun { Ok(()) } else { write(["time", "action", "by", "detail"]) };
        self.is_begun = true;
        for row in &read.rows {
            let _ = write([&Moment::of_ms(row.at).exact(), &row.action, &row.actor, &row.detail]);
        }
        Ok(lines.into_inner().unwrap_or_default())
    }
}

/// The parts of a file, and an error if they end too early.
fn until_end(parts: impl Stream<Item = Part> + Send + 'static) -> impl Stream<Item = io::Result<Vec<u8>>> + Send {
    stream::unfold(Some(Box::pin(parts)), |parts| async move {
        let mut parts = parts?;
        match parts.next().await {
            Some(Part::Rows(rows)) => Some((Ok(rows), Some(parts))),
            Some(Part::End) => None,
            None => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    })
}

impl AuditQuery {
    fn filter(&self) -> Result<AuditFilter, Trouble> {
        let is_known = self.kind.is_empty() || KINDS.iter().any(|(kind, _)| *kind == self.kind);
        let before = match self.before.as_str() {
            "" => Some(None),
            text => text.split_once('.').and_then(|(at, id)| Some(Some((at.parse().ok()?, id.to_owned())))),
        };
        match before {
            Some(before) if is_known => Ok(AuditFilter { action: self.kind.clone(), before }),
            _ => Err(Trouble::malformed("There is no such page of the audit log.")),
        }
    }
}

impl RowView {
    fn new(row: AuditRow, member: &Member) -> Self {
        let actor = match row.actor.split_once(':') {
            Some(("session", id)) if id == member.session.id.to_string() => "this session".into(),
            Some(("session", _)) => "a session of this page".into(),
            Some((kind, id)) => format!("{kind} {id}"),
            None => row.actor,
        };
        let mut detail = Vec::new();
        if let Ok(value) = serde_json::from_str(&row.detail) {
            flatten("", &value, &mut detail);
        }
        Self { at: Moment::of_ms(row.at), action: row.action, actor, detail }
    }
}

/// What a JSON text says, a line for each value.
fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name} {member}") };
                flatten(&name.replace('_', " "), value, lines);
            }
        }
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => lines.push((name.to_owned(), text.clone())),
        other => lines.push((name.to_owned(), other.to_string())),
    }
}
