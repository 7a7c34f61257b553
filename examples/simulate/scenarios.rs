//! Scenarios: faults and requests around one request that are dangerous in this combination and
//! at this time only. Random histories would seldom combine them.

use super::history::{Action, Fault, FaultKind, History, Step};

impl History {
    /// Adds scenarios around up to two requests.
    pub fn add_scenarios(&mut self, rng: &mut fastrand::Rng) {
        for _ in 0..rng.usize(..3) {
            let step = Step { hang_up_ms: None, ..self.steps[rng.usize(..self.steps.len())] };
            // Other requests for the lock would interfere.
            let around = step.at_ms.saturating_sub(5000)..step.at_ms + 15_000;
            self.steps.retain(|other| other.lock != step.lock || !around.contains(&other.at_ms));
            self.length_ms = self.length_ms.max(step.at_ms + 16_000);
            match rng.u8(..8) {
                0 => self.disconnect_while_command_is_pending(step, rng),
                1 => self.pause_before_request_is_read(step, rng),
                2 => self.flush_while_row_is_written(step, rng),
                3 => self.jump_before_grants_are_closed(step, rng),
                4 => self.partition_then_flush(step, rng),
                5 => self.break_while_sql_is_down(step, rng),
                6 => self.write_rows_out_of_order(step, rng),
                _ => self.roll_back_after_later_grant(step, rng),
            }
        }
    }

    fn fault(&mut self, at_ms: u64, kind: FaultKind) {
        self.faults.push(Fault { at_ms, kind });
    }

    fn step(&mut self, step: Step, after_ms: u64, server: usize, action: Action) {
        self.steps.push(Step { at_ms: step.at_ms + after_ms, server, hang_up_ms: None, action, ..step });
    }

    fn other_server(&self, server: usize) -> usize {
        (server + 1) % self.servers
    }

    fn other_holder(&self, step: Step) -> Step {
        Step { holder: (step.holder + 1) % self.holders.len(), hang_up_ms: None, ..step }
    }

    /// The server loses its connection and answers 503, and the command reaches the store later.
    fn disconnect_while_command_is_pending(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let server = step.server;
        // The release of a short lease is one script, without the journal.
        let acquire = Action::Acquire { lease_ms: self.short_ms, wait_ms: 0 };
        self.step(step, 0, server, acquire);
        self.step(step, 100, server, Action::Release { with_fence: rng.bool() });
        self.fault(step.at_ms + 99, FaultKind::Slow { server, ms: 12, max_delay_ms: 600 });
        self.fault(step.at_ms + rng.u64(112..160), FaultKind::Disconnect { server: Some(server) });
        let other = self.other_server(server);
        self.step(step, rng.u64(170..350), other, acquire);
        let heartbeat = Action::Heartbeat { lease_ms: rng.u64(1000..20_000), with_fence: false };
        self.step(step, rng.u64(650..1000), other, heartbeat);
    }

    /// A paused server reads an old request from its socket after it resumes.
    fn pause_before_request_is_read(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let server = step.server;
        let ms = rng.u64(2500..4500);
        let acquire = Action::Acquire { lease_ms: rng.u64(6000..20_000), wait_ms: 0 };
        self.step(step, 0, server, acquire);
        let release = Action::Release { with_fence: rng.bool() };
        let hang_up_ms = Some(rng.u64(50..300));
        self.steps.push(Step { at_ms: step.at_ms + 100, hang_up_ms, action: release, ..step });
        self.fault(step.at_ms + rng.u64(60..100), FaultKind::Pause { server, ms });
        let other = self.other_server(server);
        self.step(step, rng.u64(2150..2400), other, acquire);
        self.step(step, ms + 400, other, Action::Heartbeat { lease_ms: 5000, with_fence: false });
    }

    /// A journal row is written after a recovery has read the journal.
    fn flush_while_row_is_written(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let long = Action::Acquire { lease_ms: rng.u64(12_000..30_000), wait_ms: 0 };
        self.step(step, 0, step.server, long);
        self.fault(step.at_ms.saturating_sub(1), FaultKind::SqlSlow { ms: 15 });
        self.fault(step.at_ms + rng.u64(16..200), FaultKind::Flush);
        let rival = self.other_holder(step);
        for _ in 0..3 {
            let acquire = Action::Acquire { lease_ms: 1500, wait_ms: 0 };
            self.step(rival, rng.u64(6000..12_000), step.server, acquire);
        }
    }

    /// The clock jumps, and the servers notice it late.
    fn jump_before_grants_are_closed(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let lease_ms = rng.u64(1000..self.short_ms);
        self.step(step, 0, step.server, Action::Acquire { lease_ms, wait_ms: 0 });
        self.fault(
            step.at_ms + rng.u64(10..300),
            FaultKind::ClockJump { ms: rng.i64(3000..20_000), disconnects: false },
        );
        for server in 0..self.servers {
            self.fault(step.at_ms + rng.u64(5..20), FaultKind::Slow { server, ms: 1800, max_delay_ms: 160 });
        }
        let rival = self.other_holder(step);
        for number in 1..12 {
            let acquire = Action::Acquire { lease_ms: 2000, wait_ms: 0 };
            self.step(rival, number * 110 + rng.u64(..60), rng.usize(..self.servers), acquire);
        }
    }

    /// An acquire is answered 503 while the same holder sends heartbeats to another server.
    fn partition_then_flush(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let (server, other) = (step.server, self.other_server(step.server));
        let lease_ms = rng.u64(15_000..40_000);
        self.step(step, 0, server, Action::Acquire { lease_ms, wait_ms: 0 });
        self.fault(step.at_ms + rng.u64(2..8), FaultKind::Partition { server, ms: rng.u64(2500..5000) });
        self.step(step, rng.u64(600..1000), other, Action::Heartbeat { lease_ms, with_fence: false });
        self.fault(step.at_ms + rng.u64(1050..2000), FaultKind::Flush);
        let rival = self.other_holder(step);
        for _ in 0..3 {
            let acquire = Action::Acquire { lease_ms: 1500, wait_ms: 0 };
            self.step(rival, rng.u64(9000..14_000), other, acquire);
        }
        self.step(step, 14_000, other, Action::Heartbeat { lease_ms: 3000, with_fence: false });
    }

    /// A grant is broken while the database is unavailable, another holder gets the lock, and the
    /// store loses its data.
    fn break_while_sql_is_down(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let long = Action::Acquire { lease_ms: rng.u64(15_000..40_000), wait_ms: 0 };
        self.step(step, 0, step.server, long);
        self.fault(step.at_ms + 60, FaultKind::SqlDown { ms: rng.u64(200..600) });
        self.step(step, 70, step.server, Action::Break);
        let rival = self.other_holder(step);
        let acquire = Action::Acquire { lease_ms: self.short_ms, wait_ms: 0 };
        self.step(rival, rng.u64(90..200), self.other_server(step.server), acquire);
        self.fault(step.at_ms + rng.u64(210..400), FaultKind::Flush);
        for _ in 0..6 {
            let heartbeat = Action::Heartbeat { lease_ms: 12_000, with_fence: rng.bool() };
            self.step(step, rng.u64(600..2600), step.server, heartbeat);
        }
    }

    /// The journal row of a shorter lease is written after the row of a longer one.
    fn write_rows_out_of_order(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let long = Action::Acquire { lease_ms: 25_000, wait_ms: 0 };
        self.step(step, 0, step.server, long);
        self.fault(step.at_ms + 199, FaultKind::SqlSlow { ms: 12 });
        self.step(step, 200, step.server, Action::Heartbeat { lease_ms: 4000, with_fence: false });
        let other = self.other_server(step.server);
        self.step(step, rng.u64(2230..2300), other, Action::Heartbeat { lease_ms: 25_000, with_fence: false });
        self.fault(step.at_ms + rng.u64(3800..5000), FaultKind::Flush);
        let rival = self.other_holder(step);
        for _ in 0..3 {
            let acquire = Action::Acquire { lease_ms: 1500, wait_ms: 0 };
            self.step(rival, rng.u64(11_000..14_500), other, acquire);
        }
        self.step(step, 14_800, other, Action::Heartbeat { lease_ms: 3000, with_fence: false });
    }

    /// The store loses a release and a later grant, and the first holder acquires again.
    fn roll_back_after_later_grant(&mut self, step: Step, rng: &mut fastrand::Rng) {
        let lease_ms = rng.u64(9000..20_000);
        self.step(step, 0, step.server, Action::Acquire { lease_ms, wait_ms: 0 });
        let is_broken = rng.bool();
        let end = if is_broken { Action::Break } else { Action::Release { with_fence: rng.bool() } };
        self.step(step, 300, step.server, end);
        if rng.bool() {
            self.fault(step.at_ms + 250, FaultKind::SqlDown { ms: rng.u64(300..1500) });
        }
        let rival = self.other_holder(step);
        let acquire = Action::Acquire { lease_ms: rng.u64(500..1500), wait_ms: 0 };
        self.step(rival, 350, step.server, acquire);
        if rng.bool() {
            self.step(rival, 450, step.server, Action::Release { with_fence: rng.bool() });
        }
        let lost_ms = rng.u64(190..450);
        self.fault(step.at_ms + 480, FaultKind::Crash { down_ms: rng.u64(20..600), lost_ms: Some(lost_ms) });
        // While the store is down, an acquire is answered with 503, and a heartbeat follows.
        if !is_broken && !lease_ms.is_multiple_of(4) {
            self.step(step, 485, step.server, Action::Acquire { lease_ms, wait_ms: 0 });
            let heartbeat = match lease_ms % 4 {
                1 => Action::StaleHeartbeat { lease_ms },
                _ => Action::Heartbeat { lease_ms, with_fence: false },
            };
            self.step(step, 3000, step.server, heartbeat);
        }
        for _ in 0..3 {
            let again = match is_broken {
                true => Action::Heartbeat { lease_ms, with_fence: true },
                false => Action::Acquire { lease_ms, wait_ms: 0 },
            };
            self.step(step, rng.u64(1000..14_000), step.server, again);
        }
    }
}
