//! What happens while the lock is held: the command, the heartbeats and the watchdog.

use std::time::Duration;

use super::{
    OnLost, Run,
    command::{Command, State},
    environment::environment,
    signals::Signals,
    watchdog::Watch,
};
use crate::{
    cli::{FAILED, say},
    client::{Lock, Moment},
};

/// `EX_IOERR`: the command was stopped, or the lock was lost under it.
const LOST: u8 = 74;

/// How long the command has after TERM, unless the lease is short.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// Runs the command until it has ended. Returns the exit code.
pub(super) async fn run(run: &Run, lock: &Lock, signals: &mut Signals) -> u8 {
    let lease = lock.grant().lease;
    let kill_after = match (run.on_lost, run.kill_after) {
        (OnLost::Kill, _) => Duration::ZERO,
        (_, Some(kill_after)) => kill_after.min(lease / 3),
        (_, None) => KILL_AFTER.min(lease / 4),
    };
    let mut watch = match run.on_lost {
        OnLost::Ignore => None,
        // Who is stopped or killed cannot stop the command. Another process can.
        _ => match Watch::start(kill_after) {
            Ok(watch) => Some(watch),
            Err(error) => {
                say(&format!("cannot start the watchdog: {error}"));
                return FAILED;
            }
        },
    };
    if let Some(watch) = &mut watch {
        watch.until(lock.deadline());
    }
    // It may have been stopped while it waited, and gone on too late.
    if (lock.deadline() - kill_after).rest().is_zero() {
        say("the lock was granted, and its lease has all but lapsed since");
        return LOST;
    }
    let mut command = match Command::start(&run.command, &environment(&run.lock.name, lock)) {
        Ok(command) => command,
        Err((code, reason)) => {
            say(&reason);
            return code;
        }
    };
    if let Some(watch) = &mut watch {
        watch.group(command.group());
    }

    let mut changes = lock.changes();
    let mut is_lost = false;
    let mut kill_at = None;
    let ended = loop {
        tokio::select! {
            state = command.changed() => match state {
                State::Ended(code) => break code,
                State::Stopped => command.stop_with_it(),
            },
            signal = signals.next() => command.signal(signal),
            loss = lock.expiring(kill_after), if !is_lost => {
                is_lost = true;
                say(&loss.to_string());
                if run.on_lost != OnLost::Ignore {
                    command.terminate();
                    kill_at = Some(Moment::now() + kill_after);
                }
            }
            () = reached(kill_at) => {
                command.kill();
                kill_at = None;
            }
            trouble = changes.next(), if !is_lost => {
                if let Some(reason) = trouble {
                    say(&format!("heartbeats fail, and are tried again until the lease lapses: {reason}"));
                }
                if let Some(watch) = &mut watch {
                    watch.until(lock.deadline());
                }
            }
        }
    };
    command.end_group(kill_after).await;
    if let Some(watch) = watch {
        watch.end();
    }
    // The watchdog may have seen it first.
    let is_late = ended > 128 && (lock.deadline() - kill_after).rest().is_zero();
    if (is_lost || is_late) && run.on_lost != OnLost::Ignore { LOST } else { ended }
}

async fn reached(moment: Option<Moment>) {
    match moment {
        Some(moment) => moment.reached().await,
        None => std::future::pending().await,
    }
}
