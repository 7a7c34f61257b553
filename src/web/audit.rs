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
    error::PageError,
    layout::{Layout, Section},
    page_runtime::stream_items,
    session::SessionUser,
    template::HtmlPage,
    time::DisplayTime,
};
use crate::{
    accounts::{AccountsError, AuditFilter, AuditRow},
    app::App,
    limits::PerKeyPermit,
    lock::AccountId,
};

/// The query string of the audit log.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct AuditQuery {
    /// One of [`KINDS`]; empty for all.
    #[serde(default)]
    kind: String,
    /// Page cursor: the time and the id of the last row shown, joined by a dot.
    #[serde(default)]
    before: String,
}

/// The filters of the page: prefixes of actions and their labels.
const KINDS: [(&str, &str); 6] = [
    ("account.", "Account and sign-ins"),
    ("session.", "Ended sessions"),
    ("token.", "Tokens"),
    ("lock.", "Locks"),
    ("namespace.", "Namespaces"),
    ("account.set", "Plan, lease and password changes"),
];

/// Rows on a page, and the maximum of rows in one CSV file.
const PAGE_ROWS: usize = 50;
const EXPORT_ROWS_MAX: usize = 10_000;
/// Rows of a CSV file read from the database at once.
const BATCH_ROWS: usize = 200;
/// Time limit for the download of a CSV file.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Template)]
#[template(path = "audit.html")]
pub(super) struct AuditLogPage {
    layout: Layout,
    kinds: [(&'static str, &'static str); 6],
    kind: String,
    rows: Vec<AuditLogRow>,
    next: Option<String>,
    is_first: bool,
}

struct AuditLogRow {
    at: DisplayTime,
    action: String,
    actor: String,
    detail: Vec<(String, String)>,
}

/// `GET /account/audit`.
pub(super) async fn audit(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Query(query): Query<AuditQuery>,
) -> Result<HtmlPage<AuditLogPage>, PageError> {
    let filter = query.filter()?;
    let read = app.database.read_audit(user.account(), &filter, PAGE_ROWS).await?;
    let next = read.next.map(|(at, id)| {
        let text = form_urlencoded::Serializer::new(String::new())
            .append_pair("kind", &query.kind)
            .append_pair("before", &format!("{at}.{id}"))
            .finish();
        format!("/account/audit?{text}")
    });
    Ok(HtmlPage(AuditLogPage {
        layout: user.layout("Audit log", Section::Audit),
        kinds: KINDS,
        rows: read.rows.into_iter().map(|row| AuditLogRow::new(row, &user)).collect(),
        next,
        is_first: query.before.is_empty(),
        kind: query.kind,
    }))
}

/// `GET /account/audit.csv`: the newest [`EXPORT_ROWS_MAX`] rows as CSV. No cell begins with
/// text that a user chose, so a spreadsheet cannot take one for a formula: details are JSON.
pub(super) async fn audit_csv(
    State(app): State<Arc<App>>,
    user: SessionUser,
    Query(query): Query<AuditQuery>,
) -> Result<Response, PageError> {
    let (filter, account) = (query.filter()?, user.account());
    let permits =
        app.pages.downloads_per_account.try_acquire(account).zip(app.pages.downloads.clone().try_acquire_owned().ok());
    let permits = permits.ok_or_else(|| PageError::too_many(EXPORT_TIMEOUT))?;
    let mut export = CsvExport { app, account, filter, rows: 0, has_header: false, is_ended: false, _permits: permits };
    // Read the first part before the response begins, while an error page is still possible.
    let first = export.next().await?;
    let parts = stream_items(move |sender| async move {
        let sending = export.send(first, &sender);
        if timeout(EXPORT_TIMEOUT, sending).await.is_err() {
            tracing::debug!(%account, "the download of the audit log timed out");
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"lockable-audit.csv\"")),
    ];
    Ok((headers, Body::from_stream(until_end(parts))).into_response())
}

/// The state of one CSV download.
struct CsvExport {
    app: Arc<App>,
    account: AccountId,
    filter: AuditFilter,
    /// Rows read so far.
    rows: usize,
    has_header: bool,
    is_ended: bool,
    /// The permits of the per-account and the global limit of downloads.
    _permits: (PerKeyPermit<AccountId>, OwnedSemaphorePermit),
}

/// A part of a CSV file. A stream that ends without [`CsvPart::End`] is truncated, and the
/// client must get an error.
enum CsvPart {
    Rows(Vec<u8>),
    End,
}

impl CsvExport {
    /// Sends `first` and all further parts of the file.
    async fn send(&mut self, first: Vec<u8>, sender: &mpsc::Sender<CsvPart>) {
        let mut part = first;
        while sender.send(CsvPart::Rows(part)).await.is_ok() {
            if self.is_ended {
                let _ = sender.send(CsvPart::End).await;
                return;
            }
            part = match self.next().await {
                Ok(part) => part,
                Err(error) => {
                    tracing::warn!(%error, account = %self.account, "cannot read the audit log; the download is truncated");
                    return;
                }
            };
        }
    }

    /// Reads the next rows and encodes them as CSV.
    async fn next(&mut self) -> Result<Vec<u8>, AccountsError> {
        let wanted = BATCH_ROWS.min(EXPORT_ROWS_MAX - self.rows);
        let read = self.app.database.read_audit(self.account, &self.filter, wanted).await?;
        self.rows += read.rows.len();
        self.is_ended = read.next.is_none() || self.rows >= EXPORT_ROWS_MAX;
        self.filter.before = read.next;
        let mut lines = csv::Writer::from_writer(Vec::new());
        let mut write = |cells: [&str; 4]| lines.write_record(cells);
        // Writes into memory cannot fail.
        let _ = if self.has_header { Ok(()) } else { write(["time", "action", "by", "detail"]) };
        self.has_header = true;
        for row in &read.rows {
            let _ = write([&DisplayTime::from_ms(row.at).rfc3339(), &row.action, &row.actor, &row.detail]);
        }
        Ok(lines.into_inner().unwrap_or_default())
    }
}

/// The bytes of a file; an error if the parts end without [`CsvPart::End`].
fn until_end(parts: impl Stream<Item = CsvPart> + Send + 'static) -> impl Stream<Item = io::Result<Vec<u8>>> + Send {
    stream::unfold(Some(Box::pin(parts)), |parts| async move {
        let mut parts = parts?;
        match parts.next().await {
            Some(CsvPart::Rows(rows)) => Some((Ok(rows), Some(parts))),
            Some(CsvPart::End) => None,
            None => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    })
}

impl AuditQuery {
    fn filter(&self) -> Result<AuditFilter, PageError> {
        let is_valid_kind = self.kind.is_empty() || KINDS.iter().any(|(kind, _)| *kind == self.kind);
        let before = match self.before.as_str() {
            "" => Some(None),
            text => text.split_once('.').and_then(|(at, id)| Some(Some((at.parse().ok()?, id.to_owned())))),
        };
        match before {
            Some(before) if is_valid_kind => Ok(AuditFilter { action: self.kind.clone(), before }),
            _ => Err(PageError::malformed("Unknown filter or page of the audit log.")),
        }
    }
}

impl AuditLogRow {
    fn new(row: AuditRow, user: &SessionUser) -> Self {
        let actor = match row.actor.split_once(':') {
            Some(("session", id)) if id == user.session.id.to_string() => "this session".into(),
            Some(("session", _)) => "another session".into(),
            Some((kind, id)) => format!("{kind} {id}"),
            None => row.actor,
        };
        let mut detail = Vec::new();
        if let Ok(value) = serde_json::from_str(&row.detail) {
            flatten("", &value, &mut detail);
        }
        Self { at: DisplayTime::from_ms(row.at), action: row.action, actor, detail }
    }
}

/// Flattens a JSON value into (name, value) lines.
fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name} {field}") };
                flatten(&name.replace('_', " "), value, lines);
            }
        }
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => lines.push((name.to_owned(), text.clone())),
        other => lines.push((name.to_owned(), other.to_string())),
    }
}
