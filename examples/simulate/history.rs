//! Histories: the requests of clients and the faults, with their times. The seed determines a
//! history, and each part of one can be left out.

use std::fmt;

use super::world::MessageFaults;

#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub servers: usize,
    /// The longest lease that is not journaled.
    pub short_ms: u64,
    pub locks: usize,
    pub holders: Vec<Holder>,
    /// The quota of held locks of each account.
    pub held_max: u64,
    pub message_faults: MessageFaults,
    pub length_ms: u64,
    pub steps: Vec<Step>,
    pub faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub account: usize,
    pub has_owner: bool,
}

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub at_ms: u64,
    pub lock: usize,
    pub holder: usize,
    pub server: usize,
    /// The time after which the client closes its connection; `None` if it waits for the answer.
    pub hang_up_ms: Option<u64>,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Acquire {
        lease_ms: u64,
        wait_ms: u64,
    },
    Heartbeat {
        lease_ms: u64,
        with_fence: bool,
    },
    Release {
        with_fence: bool,
    },
    Break,
    /// A heartbeat of a client that has released the lock.
    StaleHeartbeat {
        lease_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    pub at_ms: u64,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// Closes the connections to the store, of one server or all.
    Disconnect {
        server: Option<usize>,
    },
    /// Drops all messages between a server and the store.
    Partition {
        server: usize,
        ms: u64,
    },
    /// Delays each message between a server and the store by up to `max_delay_ms`.
    Slow {
        server: usize,
        ms: u64,
        max_delay_ms: u64,
    },
    Pause {
        server: usize,
        ms: u64,
    },
    Kill {
        server: usize,
        down_ms: u64,
    },
    /// Suspends the store.
    Freeze {
        ms: u64,
    },
    Flush,
    /// Kills and restarts the store, without the writes of the last `lost_ms`.
    Crash {
        down_ms: u64,
        lost_ms: Option<u64>,
    },
    Failover {
        down_ms: u64,
        lost_ms: u64,
    },
    /// Kills and restarts the store, without its data.
    RestartEmpty {
        down_ms: u64,
    },
    /// Sets the store's clock, with open connections or together with a disconnect.
    ClockJump {
        ms: i64,
        disconnects: bool,
    },
    /// Sets the store's clock, and sets it back after `for_ms`.
    ClockBlip {
        ms: i64,
        for_ms: u64,
    },
    SqlDown {
        ms: u64,
    },
    SqlSlow {
        ms: u64,
    },
    SqlFrozen {
        ms: u64,
    },
    /// Executes statements without an answer.
    SqlUnanswered {
        ms: u64,
    },
}

impl FaultKind {
    pub const NAMES: [&'static str; 16] = [
        "disconnect",
        "partition",
        "slow",
        "pause",
        "kill",
        "freeze",
        "flush",
        "crash",
        "failover",
        "restart-empty",
        "clock-jump",
        "clock-blip",
        "sql-down",
        "sql-slow",
        "sql-frozen",
        "sql-unanswered",
    ];

    /// A random fault of the kind with this index in `NAMES`.
    fn draw(number: usize, servers: usize, rng: &mut fastrand::Rng) -> Self {
        let server = rng.usize(..servers);
        let down_ms = rng.u64(50..3000);
        let ms = match rng.u8(..3) {
            0 => rng.u64(100..1000),
            1 => rng.u64(500..3000),
            _ => rng.u64(2000..9000),
        };
        match number {
            0 => Self::Disconnect { server: rng.bool().then_some(server) },
            1 => Self::Partition { server, ms },
            2 => Self::Slow { server, ms, max_delay_ms: if rng.bool() { 700 } else { 200 } },
            3 => Self::Pause { server, ms },
            4 => Self::Kill { server, down_ms },
            5 => Self::Freeze { ms: ms.min(4000) },
            6 => Self::Flush,
            7 => Self::Crash { down_ms, lost_ms: rng.bool().then(|| rng.u64(..1000)) },
            8 => Self::Failover { down_ms, lost_ms: rng.u64(..1500) },
            9 => Self::RestartEmpty { down_ms },
            10 | 11 => {
                let size = match rng.u8(..4) {
                    0 => rng.i64(200..1000),
                    1 => rng.i64(1100..4000),
                    _ => rng.i64(3000..40_000),
                };
                let ms = if rng.u8(..3) == 0 { -size } else { size };
                match number {
                    10 => Self::ClockJump { ms, disconnects: rng.bool() },
                    _ => Self::ClockBlip { ms, for_ms: rng.u64(20..900) },
                }
            }
            12 => Self::SqlDown { ms },
            13 => Self::SqlSlow { ms },
            14 => Self::SqlFrozen { ms },
            _ => Self::SqlUnanswered { ms },
        }
    }

    pub fn name(self) -> &'static str {
        let number = match self {
            Self::Disconnect { .. } => 0,
            Self::Partition { .. } => 1,
            Self::Slow { .. } => 2,
            Self::Pause { .. } => 3,
            Self::Kill { .. } => 4,
            Self::Freeze { .. } => 5,
            Self::Flush => 6,
            Self::Crash { .. } => 7,
            Self::Failover { .. } => 8,
            Self::RestartEmpty { .. } => 9,
            Self::ClockJump { .. } => 10,
            Self::ClockBlip { .. } => 11,
            Self::SqlDown { .. } => 12,
            Self::SqlSlow { .. } => 13,
            Self::SqlFrozen { .. } => 14,
            Self::SqlUnanswered { .. } => 15,
        };
        Self::NAMES[number]
    }
}

/// The probabilities of client behaviors. Each history has only some behaviors, which finds
/// more violations than all at once.
struct ClientProfile {
    /// An acquire requests a lease that the journal records.
    long: f64,
    /// An acquire waits in the queue.
    waits: f64,
    /// The client closes its connection before the answer.
    hang_ups: f64,
    /// The client renews by another acquire instead of a heartbeat.
    repeats: f64,
    /// A renewal requests another lease, which is often shorter.
    shortens: f64,
    /// The grant is broken instead of released.
    breaks: f64,
    /// The client does not release: the lease expires.
    abandons: f64,
    /// A heartbeat or release has a fencing token.
    fences: f64,
    /// The client sends a heartbeat after its release.
    stale_heartbeats: f64,
    /// The maximum time between two requests of a holder.
    pause_ms: u64,
    /// The probability that requests of one holder overlap.
    overlaps: f64,
}

impl ClientProfile {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let pause_ms = if rng.bool() { 600 } else { 3000 };
        let mut sometimes = |chance: f64, value: f64| if rng.f64() < chance { value } else { 0.0 };
        Self {
            long: sometimes(0.75, 0.7),
            waits: sometimes(0.4, 0.5),
            hang_ups: sometimes(0.4, 0.15),
            repeats: sometimes(0.5, 0.25),
            shortens: sometimes(0.5, 0.4),
            breaks: sometimes(0.35, 0.2),
            abandons: sometimes(0.4, 0.2),
            fences: sometimes(0.5, 0.6),
            stale_heartbeats: sometimes(0.4, 0.3),
            pause_ms,
            overlaps: sometimes(0.4, 0.3),
        }
    }
}

impl History {
    pub fn generate(seed: u64, excluded: &[String]) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let servers = if rng.u8(..5) == 0 { 3 } else { 2 };
        let locks = if rng.u8(..4) == 0 { 2 } else { 1 };
        let holders = (0..rng.usize(2..=4))
            .map(|number| Holder { account: usize::from(number == 3), has_owner: number != 2 || rng.bool() })
            .collect();
        let profile = ClientProfile::draw(&mut rng);
        let chance = |rng: &mut fastrand::Rng| match rng.u8(..4) {
            0 => 0.03,
            1 => 0.008,
            _ => 0.0,
        };
        let message_faults = MessageFaults {
            late: chance(&mut rng) * 2.0,
            lost: chance(&mut rng),
            unanswered: chance(&mut rng),
            unpublished: if rng.u8(..3) == 0 { 0.3 } else { 0.0 },
            sql_late: chance(&mut rng) * 2.0,
            sql_unanswered: chance(&mut rng),
        };
        let mut history = Self {
            seed,
            servers,
            short_ms: rng.u64(1500..=3000),
            locks,
            holders,
            held_max: if rng.u8(..4) == 0 { 1 } else { 10 },
            message_faults,
            length_ms: rng.u64(12_000..35_000),
            steps: Vec::new(),
            faults: Vec::new(),
        };
        history.draw_steps(&profile, &mut rng);
        history.draw_faults(&mut rng);
        if rng.bool() {
            history.add_scenarios(&mut rng);
        }
        history.sort(excluded);
        history
    }

    /// Whether every message between servers and store is fast and arrives, and so does every
    /// statement while SQL is available.
    pub fn is_reliable(&self) -> bool {
        let MessageFaults { late, lost, unanswered, sql_late, sql_unanswered, .. } = self.message_faults;
        let keeps_messages_fast = |fault: &Fault| {
            !matches!(
                fault.kind,
                FaultKind::Disconnect { .. }
                    | FaultKind::Partition { .. }
                    | FaultKind::Slow { .. }
                    | FaultKind::Pause { .. }
                    | FaultKind::Freeze { .. }
            )
        };
        let has_no_message_faults =
            [late, lost, unanswered, sql_late, sql_unanswered].iter().all(|chance| *chance <= 0.0);
        has_no_message_faults && self.faults.iter().all(keeps_messages_fast)
    }

    fn draw_steps(&mut self, profile: &ClientProfile, rng: &mut fastrand::Rng) {
        let mut steps = Vec::new();
        for holder in 0..self.holders.len() {
            let mut at_ms = rng.u64(..4000);
            let mut server = rng.usize(..self.servers);
            while at_ms < self.length_ms {
                let lock = rng.usize(..self.locks);
                let mut lease_ms = self.draw_lease_ms(rng.f64() < profile.long, rng);
                let mut step = |at_ms: u64, action, rng: &mut fastrand::Rng| {
                    if rng.u8(..4) == 0 {
                        server = rng.usize(..self.servers);
                    }
                    let hang_up_ms = (rng.f64() < profile.hang_ups).then(|| rng.u64(..600));
                    steps.push(Step { at_ms, lock, holder, server, hang_up_ms, action });
                };
                let wait_ms = if rng.f64() < profile.waits { rng.u64(500..6000) } else { 0 };
                step(at_ms, Action::Acquire { lease_ms, wait_ms }, rng);
                at_ms += rng.u64(1..profile.pause_ms);
                while rng.u8(..10) < 7 {
                    if rng.f64() < profile.shortens {
                        lease_ms = self.draw_lease_ms(rng.f64() < profile.long / 2.0, rng);
                    }
                    let action = match rng.f64() < profile.repeats {
                        true => Action::Acquire { lease_ms, wait_ms: 0 },
                        false => Action::Heartbeat { lease_ms, with_fence: rng.f64() < profile.fences },
                    };
                    step(at_ms, action, rng);
                    at_ms += match rng.f64() < profile.overlaps {
                        true => rng.u64(..20),
                        false => rng.u64(1..profile.pause_ms.min(lease_ms)),
                    };
                }
                if rng.f64() < profile.breaks {
                    step(at_ms, Action::Break, rng);
                } else if rng.f64() >= profile.abandons {
                    step(at_ms, Action::Release { with_fence: rng.f64() < profile.fences }, rng);
                }
                at_ms += rng.u64(1..profile.pause_ms);
                if rng.f64() < profile.stale_heartbeats {
                    step(at_ms, Action::StaleHeartbeat { lease_ms }, rng);
                    at_ms += rng.u64(1..profile.pause_ms);
                }
                if rng.u8(..3) == 0 {
                    at_ms += rng.u64(..4000);
                }
            }
        }
        self.steps = steps;
    }

    fn draw_lease_ms(&self, is_long: bool, rng: &mut fastrand::Rng) -> u64 {
        match (is_long, rng.u8(..4)) {
            (false, _) => rng.u64(400..=self.short_ms),
            (true, 0) => rng.u64(self.short_ms + 1..self.short_ms * 2),
            (true, 1) => rng.u64(4000..10_000),
            (true, _) => rng.u64(10_000..60_000),
        }
    }

    fn draw_faults(&mut self, rng: &mut fastrand::Rng) {
        let kinds: Vec<usize> = (0..FaultKind::NAMES.len()).filter(|_| rng.u8(..10) < 3).collect();
        if kinds.is_empty() {
            return;
        }
        let mut faults = Vec::new();
        for _ in 0..rng.usize(1..=5) {
            // Most violations need a fault close to a request, or to another fault.
            let mut at_ms = match rng.u8(..3) {
                0 => rng.u64(500..self.length_ms),
                _ => {
                    let step = self.steps[rng.usize(..self.steps.len())].at_ms;
                    (step + rng.u64(..500)).saturating_sub(rng.u64(..100))
                }
            };
            for _ in 0..rng.usize(1..=3) {
                let kind = FaultKind::draw(kinds[rng.usize(..kinds.len())], self.servers, rng);
                faults.push(Fault { at_ms, kind });
                at_ms += match rng.u8(..3) {
                    0 => rng.u64(..100),
                    1 => rng.u64(..1500),
                    _ => rng.u64(500..9000),
                };
            }
        }
        self.faults = faults;
    }

    fn sort(&mut self, excluded: &[String]) {
        let is_excluded = |kind: FaultKind| excluded.iter().any(|excluded| excluded == kind.name());
        self.faults.retain(|fault: &Fault| fault.at_ms < self.length_ms && !is_excluded(fault.kind));
        self.faults.sort_by_key(|fault| fault.at_ms);
        self.steps.retain(|step| step.at_ms < self.length_ms);
        self.steps.sort_by_key(|step| step.at_ms);
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lock, holder, server, hang_up_ms, action, .. } = self;
        write!(f, "h{holder} -> s{server}: {action:?} of lock {lock}")?;
        hang_up_ms.map_or(Ok(()), |ms| write!(f, ", hangs up after {ms} ms"))
    }
}
