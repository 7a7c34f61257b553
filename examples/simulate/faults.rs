//! Injects the faults of a history.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    cluster::Cluster,
    history::{Fault, FaultKind, History},
    oracle::{Loss, Oracle},
    world::World,
};

/// The time between the snapshot of the store and the crash that loses all later writes.
fn snapshot_lead_ms(kind: FaultKind) -> u64 {
    match kind {
        FaultKind::Crash { lost_ms, .. } => lost_ms.unwrap_or(0),
        FaultKind::Failover { lost_ms, .. } => lost_ms,
        _ => 0,
    }
}

/// Schedules each fault for its time.
pub fn spawn_all(history: &History, cluster: &Arc<Cluster>, oracle: &Arc<Oracle>) {
    for fault in &history.faults {
        let (fault, cluster, oracle) = (*fault, cluster.clone(), oracle.clone());
        tokio::spawn(async move { inject(fault, &cluster, &oracle).await });
    }
}

async fn inject(Fault { at_ms, kind }: Fault, cluster: &Arc<Cluster>, oracle: &Arc<Oracle>) {
    let world = &cluster.world;
    let lost_ms = snapshot_lead_ms(kind);
    sleep_until(world.at(at_ms.saturating_sub(lost_ms))).await;
    let is_rolled_back = matches!(kind, FaultKind::Crash { lost_ms: Some(_), .. } | FaultKind::Failover { .. });
    if is_rolled_back {
        world.take_snapshot();
        sleep_until(world.at(at_ms)).await;
    }
    world.step();
    match kind {
        FaultKind::Disconnect { .. }
        | FaultKind::Partition { .. }
        | FaultKind::Slow { .. }
        | FaultKind::Freeze { .. } => {
            disturb_network(kind, world);
            if let FaultKind::Partition { ms, .. } | FaultKind::Slow { ms, .. } | FaultKind::Freeze { ms } = kind {
                oracle.clock_unreadable(ms);
            }
        }
        FaultKind::Pause { .. } | FaultKind::Kill { .. } => fail_server(kind, cluster, oracle).await,
        FaultKind::Flush | FaultKind::Crash { .. } | FaultKind::Failover { .. } | FaultKind::RestartEmpty { .. } => {
            let loss = match kind {
                FaultKind::Flush | FaultKind::RestartEmpty { .. } => Some(Loss::Everything),
                _ => is_rolled_back.then(|| Loss::Since(at_ms.saturating_sub(lost_ms))),
            };
            fail_store(kind, loss, world, oracle).await;
        }
        FaultKind::ClockJump { .. } | FaultKind::ClockBlip { .. } => {
            if oracle.may_jump() && cluster.is_any_running() {
                set_clock(kind, world, oracle).await;
            }
        }
        FaultKind::SqlDown { ms }
        | FaultKind::SqlSlow { ms }
        | FaultKind::SqlFrozen { ms }
        | FaultKind::SqlUnanswered { ms } => {
            note(kind, world);
            let until = Some(Instant::now() + Duration::from_millis(ms));
            let sql = &mut world.state().sql;
            match kind {
                FaultKind::SqlDown { .. } => sql.down_until = until,
                FaultKind::SqlSlow { .. } => sql.slow_until = until,
                FaultKind::SqlFrozen { .. } => sql.frozen_until = until,
                _ => sql.unanswered_until = until,
            }
            oracle.sql_unavailable(ms);
        }
    }
}

/// Delays or drops messages between servers and store.
fn disturb_network(kind: FaultKind, world: &World) {
    note(kind, world);
    match kind {
        FaultKind::Disconnect { server } => world.disconnect(server),
        FaultKind::Partition { server, ms } => world.partition(server, ms),
        FaultKind::Slow { server, ms, max_delay_ms } => world.slow_down(server, ms, max_delay_ms),
        FaultKind::Freeze { ms } => world.freeze(ms),
        _ => {}
    }
}

async fn fail_server(kind: FaultKind, cluster: &Arc<Cluster>, oracle: &Oracle) {
    let world = &cluster.world;
    match kind {
        FaultKind::Pause { server, ms } => {
            note(kind, world);
            cluster.pause(server);
            oracle.paused(ms);
            pause(ms).await;
            cluster.resume(server);
            world.note("resume", || format!("*** s{server} resumes"));
        }
        FaultKind::Kill { server, down_ms } if cluster.is_running(server) => {
            note(kind, world);
            cluster.kill(server);
            oracle.killed(server);
            pause(down_ms).await;
            while oracle.wait_after_jump() > 0 {
                pause(oracle.wait_after_jump()).await;
            }
            cluster.start(server);
            oracle.started();
            world.note("start", || format!("*** s{server} starts"));
        }
        _ => {}
    }
}

async fn fail_store(kind: FaultKind, loss: Option<Loss>, world: &World, oracle: &Oracle) {
    if !world.is_up() {
        return;
    }
    note(kind, world);
    if let Some(loss) = loss {
        oracle.lost(loss);
    }
    let (FaultKind::Crash { down_ms, .. } | FaultKind::Failover { down_ms, .. } | FaultKind::RestartEmpty { down_ms }) =
        kind
    else {
        return world.flush();
    };
    oracle.restarted();
    world.crash();
    pause(down_ms).await;
    if matches!(kind, FaultKind::RestartEmpty { .. }) {
        world.flush();
    }
    world.start_store(matches!(loss, Some(Loss::Since(_))), matches!(kind, FaultKind::Failover { .. }));
    world.note("store starts", || "*** the store starts".to_owned());
}

async fn set_clock(kind: FaultKind, world: &World, oracle: &Oracle) {
    note(kind, world);
    match kind {
        FaultKind::ClockJump { ms, disconnects } => {
            oracle.clock_jumped(ms);
            world.jump_clock(ms);
            if disconnects {
                world.disconnect(None);
            }
        }
        FaultKind::ClockBlip { ms, for_ms } => {
            oracle.clock_jumped(ms);
            world.jump_clock(ms);
            pause(for_ms).await;
            world.note("blip ends", || "*** the clock is set back".to_owned());
            oracle.clock_jumped(-ms);
            world.jump_clock(-ms);
        }
        _ => {}
    }
}

fn note(kind: FaultKind, world: &World) {
    world.note(kind.name(), || format!("*** {kind:?}"));
}

async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}
