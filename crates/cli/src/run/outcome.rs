use lockable_client::{BootTime, Grant, Loss, Refusal};
use serde_json::{Map, Value, json};

use crate::print_line;

/// The report of a run for `--json`.
pub(super) struct RunReport {
    is_enabled: bool,
    begun: BootTime,
    acquired: Option<BootTime>,
    fields: Map<String, Value>,
}

impl RunReport {
    pub fn new(is_enabled: bool, name: &str) -> Self {
        let fields = Map::from_iter([("name".to_owned(), name.into())]);
        Self { is_enabled, begun: BootTime::now(), acquired: None, fields }
    }

    pub fn acquired(&mut self, grant: &Grant, holder: &str) {
        self.acquired = Some(BootTime::now());
        self.set("namespace", grant.namespace());
        self.set("holder", holder);
        self.set("fencing_token", grant.fencing_token);
        self.set("again", grant.again);
    }

    pub fn refused(&mut self, refusal: &Refusal) {
        self.set("namespace", refusal.namespace());
        self.set("reason", &*refusal.reason);
        self.set("held_by", json!(refusal.holder.as_ref()));
    }

    pub fn lost(&mut self, loss: Option<Loss>) {
        self.set("loss", loss.map(|loss| loss.to_string()));
    }

    /// `Ok` with whether the lock was still held at its release, or the error of the release.
    pub fn released(&mut self, released: Result<bool, String>) {
        match released {
            Ok(released) => self.set("released", released),
            Err(error) => self.set("release_error", error),
        }
    }

    pub fn failed(&mut self, reason: &str) {
        self.set("error", reason);
    }

    /// Prints the report as the last line of standard error, if it is enabled.
    pub fn end(mut self, outcome: &str, exit_code: u8) {
        if !self.is_enabled {
            return;
        }
        let acquired = self.acquired.unwrap_or_else(BootTime::now);
        self.set("outcome", outcome);
        self.set("exit_code", exit_code);
        self.set("waited_ms", acquired.since(self.begun).as_millis() as u64);
        if self.acquired.is_some() {
            self.set("held_ms", acquired.elapsed().as_millis() as u64);
        }
        print_line(&Value::from(self.fields).to_string());
    }

    fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.fields.insert(field.to_owned(), value.into());
    }
}
