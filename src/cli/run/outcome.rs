use serde_json::{Map, Value, json};

use crate::{
    cli::say_plainly,
    client::{BootTime, Grant, Loss, Refusal},
};

/// What became of a run, for `--json`.
pub(super) struct Report {
    is_asked: bool,
    begun: BootTime,
    acquired: Option<BootTime>,
    members: Map<String, Value>,
}

impl Report {
    pub fn new(is_asked: bool, name: &str) -> Self {
        let members = Map::from_iter([("name".to_owned(), name.into())]);
        Self { is_asked, begun: BootTime::now(), acquired: None, members }
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

    /// Whether the lock was still held when it was released, or why the server did not answer.
    pub fn released(&mut self, released: Result<bool, String>) {
        match released {
            Ok(released) => self.set("released", released),
            Err(error) => self.set("release_error", error),
        }
    }

    pub fn failed(&mut self, reason: &str) {
        self.set("error", reason);
    }

    /// Writes the report as the last line of standard error, if it was asked for.
    pub fn end(mut self, outcome: &str, exit_code: u8) {
        if !self.is_asked {
            return;
        }
        let acquired = self.acquired.unwrap_or_else(BootTime::now);
        self.set("outcome", outcome);
        self.set("exit_code", exit_code);
        self.set("waited_ms", acquired.since(self.begun).as_millis() as u64);
        if self.acquired.is_some() {
            self.set("held_ms", acquired.elapsed().as_millis() as u64);
        }
        say_plainly(&Value::from(self.members).to_string());
    }

    fn set(&mut self, member: &str, value: impl Into<Value>) {
        self.members.insert(member.to_owned(), value.into());
    }
}
