use std::{
    cell::Cell,
    convert::Infallible,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use tokio::time::sleep;

use super::{plain, say};
use crate::client::{Client, Error, Grant, LockRequest, Moment, Progress, Status, recovering};

/// How often a terminal shows for how long it has waited.
const SECOND: Duration = Duration::from_secs(1);
/// How often the server is asked how the line stands, for a terminal.
const SECONDS_TO_ASK: u64 = 5;
/// When a log gets its second line; each further one comes after twice the time,
/// but at least as often as this.
const LINE_FIRST: Duration = Duration::from_secs(30);
const LINE_INTERVAL_MAX: Duration = Duration::from_secs(900);

/// Acquires a lock like [`Client::acquire_until`], and shows on standard error who
/// holds it, the place in the line and the time: on a terminal in one line that
/// changes, in a log in a few. Who wants it quiet is told of troubles alone.
pub(super) async fn acquire(
    client: &Client,
    request: &LockRequest,
    until: Option<Moment>,
    is_quiet: bool,
) -> Result<Grant, Error> {
    let is_waiting = Cell::new(false);
    let line = Line { is_shown: !is_quiet && io::stderr().is_terminal() };
    let acquire = client.acquire_until(request, until, |progress| {
        line.erase();
        match progress {
            Progress::InLine(_) if is_quiet => {}
            Progress::InLine(refusal) => {
                is_waiting.set(true);
                let why = match (&refusal.recovering_until, &refusal.holder) {
                    (Some(until), _) => format!(", which {}", recovering(until)),
                    (None, Some(holder)) => format!(", held by {holder}"),
                    (None, None) => String::new(),
                };
                say(&format!("waiting for {}{why}", request.name()));
            }
            Progress::Trouble(error) => say(&format!("{error}; trying again")),
        }
    });
    let show = async {
        match line.is_shown {
            true => show_line(client, request, &is_waiting, &line).await,
            false => write_lines(client, request, &is_waiting).await,
        }
    };
    tokio::select! {
        biased;
        acquired = acquire => {
            line.erase();
            acquired
        }
        never = show => match never {},
    }
}

async fn show_line(client: &Client, request: &LockRequest, is_waiting: &Cell<bool>, line: &Line) -> Infallible {
    let begun = Moment::now();
    let (mut status, mut seconds) = (None, 0);
    loop {
        sleep(SECOND).await;
        if !is_waiting.get() {
            continue;
        }
        if seconds % SECONDS_TO_ASK == 0 {
            status = client.status(request).await.ok();
        }
        seconds += 1;
        line.replace(&in_words(request, status.as_ref(), begun));
    }
}

async fn write_lines(client: &Client, request: &LockRequest, is_waiting: &Cell<bool>) -> Infallible {
    let begun = Moment::now();
    let mut next = LINE_FIRST;
    loop {
        (begun + next).reached().await;
        next += next.min(LINE_INTERVAL_MAX);
        if is_waiting.get() {
            let status = client.status(request).await.ok();
            say(&in_words(request, status.as_ref(), begun));
        }
    }
}

fn in_words(request: &LockRequest, status: Option<&Status>, begun: Moment) -> String {
    let waited = begun.elapsed().as_secs();
    let (minutes, seconds) = (waited / 60, waited % 60);
    let place = status.and_then(|status| Some(format!(", place {} of {}", status.place?, status.waiting)));
    let holder = status.and_then(|status| Some(format!(", held by {}", status.holder.as_ref()?)));
    let recovering =
        status.and_then(|status| Some(format!(", which {}", recovering(status.recovering_until.as_ref()?))));
    let (place, holder) = (place.unwrap_or_default(), recovering.or(holder).unwrap_or_default());
    format!("waiting for {} for {minutes}:{seconds:02}{place}{holder}", request.name())
}

/// The line at the end of a terminal that is written over again and again.
struct Line {
    is_shown: bool,
}

impl Line {
    fn replace(&self, words: &str) {
        self.write(&format!("\r\x1b[Klockable: {}", plain(words)));
    }

    fn erase(&self) {
        self.write("\r\x1b[K");
    }

    fn write(&self, text: &str) {
        if self.is_shown {
            let mut terminal = io::stderr();
            let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
        }
    }
}
