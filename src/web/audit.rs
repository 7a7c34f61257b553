use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    member::Member,
    page::Page,
    time::Moment,
    trouble::Trouble,
    view::{Section, Shell},
};
use crate::{
    accounts::{AuditFilter, AuditRow},
    app::App,
    http::Problem,
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
    // One more tells whether there is another page.
    let mut rows = app.database.read_audit(member.account(), &filter, PAGE_ROWS + 1).await?;
    let has_next = rows.len() > PAGE_ROWS;
    rows.truncate(PAGE_ROWS);
    let next = rows.last().filter(|_| has_next).map(|row| {
        let text = form_urlencoded::Serializer::new(String::new())
            .append_pair("kind", &query.kind)
            .append_pair("before", &format!("{}.{}", row.at, row.id))
            .finish();
        format!("/account/audit?{text}")
    });
    Ok(Page(AuditPage {
        shell: member.shell("Audit log", Section::Audit),
        kinds: KINDS,
        rows: rows.into_iter().map(|row| RowView::new(row, &member)).collect(),
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
    let rows = app.database.read_audit(member.account(), &query.filter()?, FILE_ROWS_MAX).await?;
    let mut file = csv::Writer::from_writer(Vec::new());
    let mut write = |cells: [&str; 4]| file.write_record(cells);
    let written = write(["time", "action", "by", "detail"]).and_then(|()| {
        rows.iter().try_for_each(|row| write([&Moment::of_ms(row.at).exact(), &row.action, &row.actor, &row.detail]))
    });
    let bytes = written.map_err(|error| error.to_string()).and_then(|()| file.into_inner().map_err(|e| e.to_string()));
    let bytes = bytes.map_err(|error| {
        tracing::error!(error, "a file cannot be made");
        Trouble::from(Problem::internal())
    })?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"lockable-audit.csv\"")),
    ];
    Ok((headers, bytes).into_response())
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
