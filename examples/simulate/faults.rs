//! Makes go wrong what a history says.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    cluster::Cluster,
    history::{Fault, FaultKind, History},
    knowledge::{Knowledge, Loss},
};

/// How long before a loss the state is marked that will be left.
fn mark_before(kind: FaultKind) -> u64 {
    match kind {
        FaultKind::Crash { lost_ms, .. } => lost_ms.unwrap_or(0),
        FaultKind::Failover { lost_ms, .. } => lost_ms,
        _ => 0,
    }
}

/// Has each happen at its time.
pub fn spawn_all(history: &History, cluster: &Arc<Cluster>, knowledge: &Arc<Knowledge>) {
    for fault in &history.faults {
        let (fault, cluster, knowledge) = (*fault, cluster.clone(), knowledge.clone());
        tokio::spawn(async move { happen(fault, &cluster, &knowledge).await });
    }
}

async fn happen(Fault { at_ms, kind }: Fault, cluster: &Arc<Cluster>, knowledge: &Arc<Knowledge>) {
    let world = &cluster.world;
    let lost_ms = mark_before(kind);
    sleep_until(world.at(at_ms.saturating_sub(lost_ms))).await;
    let is_cut_back = matches!(kind, FaultKind::Crash { lost_ms: Some(_), .. } | FaultKind::Failover { .. });
    if is_cut_back {
        world.mark();
        sleep_until(world.at(at_ms)).await;
    }
    world.step();
    let pause = |ms| sleep(Duration::from_millis(ms));
    let note = || world.note(kind.name(), || format!("*** {kind:?}"));
    match kind {
        FaultKind::Cut { server } => {
            note();
            world.cut(server);
        }
        FaultKind::Deaf { server, ms } => {
            note();
            world.deafen(server, ms);
        }
        FaultKind::Slow { server, ms, most_ms } => {
            note();
            world.slow_down(server, ms, most_ms);
        }
        FaultKind::Pause { server, ms } => {
            note();
            cluster.pause(server);
            knowledge.paused(ms);
            pause(ms).await;
            cluster.go_on(server);
            world.note("goes on", || format!("*** s{server} goes on"));
        }
        FaultKind::Kill { server, down_ms } if cluster.is_there(server) => {
            note();
            cluster.kill(server);
            knowledge.killed(server);
            pause(down_ms).await;
            pause(knowledge.rest_after_leap()).await;
            cluster.start(server);
            knowledge.started();
            world.note("start", || format!("*** s{server} starts"));
        }
        FaultKind::Freeze { ms } => {
            note();
            world.freeze(ms);
        }
        FaultKind::Empty if world.is_up() => {
            note();
            knowledge.lost(Loss::Everything);
            world.empty();
        }
        FaultKind::Crash { down_ms, .. } | FaultKind::Failover { down_ms, .. } | FaultKind::Lose { down_ms }
            if world.is_up() =>
        {
            note();
            match kind {
                FaultKind::Lose { .. } => knowledge.lost(Loss::Everything),
                _ if is_cut_back => knowledge.lost(Loss::Since(at_ms.saturating_sub(lost_ms))),
                _ => {}
            }
            world.crash();
            pause(down_ms).await;
            if matches!(kind, FaultKind::Lose { .. }) {
                world.empty();
            }
            world.start_store(is_cut_back, matches!(kind, FaultKind::Failover { .. }));
            world.note("store starts", || "*** the store starts".to_owned());
        }
        FaultKind::Leap { ms, is_cut } if knowledge.may_leap() && cluster.is_any_there() => {
            note();
            knowledge.leapt(ms);
            world.leap(ms);
            if is_cut {
                world.cut(None);
            }
        }
        FaultKind::Blip { ms, for_ms } if knowledge.may_leap() && cluster.is_any_there() => {
            note();
            knowledge.leapt(ms);
            world.leap(ms);
            pause(for_ms).await;
            world.note("blip ends", || "*** the clock is right again".to_owned());
            knowledge.leapt(-ms);
            world.leap(-ms);
        }
        FaultKind::SqlGone { ms } => {
            note();
            world.state().sql.gone_until = Some(until(ms));
            knowledge.sql_away(ms);
        }
        FaultKind::SqlSlow { ms } => {
            note();
            world.state().sql.slow_until = Some(until(ms));
            knowledge.sql_away(ms);
        }
        FaultKind::SqlFrozen { ms } => {
            note();
            world.state().sql.frozen_until = Some(until(ms));
            knowledge.sql_away(ms);
        }
        FaultKind::SqlMute { ms } => {
            note();
            world.state().sql.mute_until = Some(until(ms));
            knowledge.sql_away(ms);
        }
        _ => {}
    }
}

fn until(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
