//! Makes go wrong what a history says.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    cluster::Cluster,
    history::{Fault, FaultKind, History},
    knowledge::{Knowledge, Loss},
    world::World,
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
    match kind {
        FaultKind::Cut { .. } | FaultKind::Deaf { .. } | FaultKind::Slow { .. } | FaultKind::Freeze { .. } => {
            disturb(kind, world);
            if let FaultKind::Deaf { ms, .. } | FaultKind::Slow { ms, .. } | FaultKind::Freeze { ms } = kind {
                knowledge.blind(ms);
            }
        }
        FaultKind::Pause { .. } | FaultKind::Kill { .. } => strike_server(kind, cluster, knowledge).await,
        FaultKind::Empty | FaultKind::Crash { .. } | FaultKind::Failover { .. } | FaultKind::Lose { .. } => {
            let loss = match kind {
                FaultKind::Empty | FaultKind::Lose { .. } => Some(Loss::Everything),
                _ => is_cut_back.then(|| Loss::Since(at_ms.saturating_sub(lost_ms))),
            };
            strike_store(kind, loss, world, knowledge).await;
        }
        FaultKind::Leap { .. } | FaultKind::Blip { .. } => {
            if knowledge.may_leap() && cluster.is_any_there() {
                set_clock(kind, world, knowledge).await;
            }
        }
        FaultKind::SqlGone { ms }
        | FaultKind::SqlSlow { ms }
        | FaultKind::SqlFrozen { ms }
        | FaultKind::SqlMute { ms } => {
            note(kind, world);
            let until = Some(Instant::now() + Duration::from_millis(ms));
            let sql = &mut world.state().sql;
            match kind {
                FaultKind::SqlGone { .. } => sql.gone_until = until,
                FaultKind::SqlSlow { .. } => sql.slow_until = until,
                FaultKind::SqlFrozen { .. } => sql.frozen_until = until,
                _ => sql.mute_until = until,
            }
            knowledge.sql_away(ms);
        }
    }
}

/// Messages between servers and store are late or lost.
fn disturb(kind: FaultKind, world: &World) {
    note(kind, world);
    match kind {
        FaultKind::Cut { server } => world.cut(server),
        FaultKind::Deaf { server, ms } => world.deafen(server, ms),
        FaultKind::Slow { server, ms, most_ms } => world.slow_down(server, ms, most_ms),
        FaultKind::Freeze { ms } => world.freeze(ms),
        _ => {}
    }
}

async fn strike_server(kind: FaultKind, cluster: &Arc<Cluster>, knowledge: &Knowledge) {
    let world = &cluster.world;
    match kind {
        FaultKind::Pause { server, ms } => {
            note(kind, world);
            cluster.pause(server);
            knowledge.paused(ms);
            pause(ms).await;
            cluster.go_on(server);
            world.note("goes on", || format!("*** s{server} goes on"));
        }
        FaultKind::Kill { server, down_ms } if cluster.is_there(server) => {
            note(kind, world);
            cluster.kill(server);
            knowledge.killed(server);
            pause(down_ms).await;
            while knowledge.rest_after_leap() > 0 {
                pause(knowledge.rest_after_leap()).await;
            }
            cluster.start(server);
            knowledge.started();
            world.note("start", || format!("*** s{server} starts"));
        }
        _ => {}
    }
}

async fn strike_store(kind: FaultKind, loss: Option<Loss>, world: &World, knowledge: &Knowledge) {
    if !world.is_up() {
        return;
    }
    note(kind, world);
    if let Some(loss) = loss {
        knowledge.lost(loss);
    }
    let (FaultKind::Crash { down_ms, .. } | FaultKind::Failover { down_ms, .. } | FaultKind::Lose { down_ms }) = kind
    else {
        return world.empty();
    };
    knowledge.restarted();
    world.crash();
    pause(down_ms).await;
    if matches!(kind, FaultKind::Lose { .. }) {
        world.empty();
    }
    world.start_store(matches!(loss, Some(Loss::Since(_))), matches!(kind, FaultKind::Failover { .. }));
    world.note("store starts", || "*** the store starts".to_owned());
}

async fn set_clock(kind: FaultKind, world: &World, knowledge: &Knowledge) {
    note(kind, world);
    match kind {
        FaultKind::Leap { ms, is_cut } => {
            knowledge.leapt(ms);
            world.leap(ms);
            if is_cut {
                world.cut(None);
            }
        }
        FaultKind::Blip { ms, for_ms } => {
            knowledge.leapt(ms);
            world.leap(ms);
            pause(for_ms).await;
            world.note("blip ends", || "*** the clock is right again".to_owned());
            knowledge.leapt(-ms);
            world.leap(-ms);
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
