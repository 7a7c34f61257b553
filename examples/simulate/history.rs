//! What a history is made of: who does what when, and what goes wrong. All of it follows
//! from the seed, and parts can be left out.

use std::fmt;

use super::world::Weather;

#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub servers: usize,
    /// The longest lease that is not journaled.
    pub short_ms: u64,
    pub locks: usize,
    pub holders: Vec<Holder>,
    pub held_max: u64,
    pub weather: Weather,
    pub length_ms: u64,
    pub steps: Vec<Step>,
    pub faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub account: usize,
    pub has_owner: bool,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub at_ms: u64,
    pub lock: usize,
    pub holder: usize,
    pub server: usize,
    /// After how long the client is gone, if it does not wait for the answer.
    pub hang_up_ms: Option<u64>,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
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
    /// By one that has released, and does not know or has forgotten.
    Stray {
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
    /// Connections to the store are cut: those of one server, or all.
    Cut {
        server: Option<usize>,
    },
    /// No message of a server comes through to the store, or slowly.
    Deaf {
        server: usize,
        ms: u64,
    },
    Slow {
        server: usize,
        ms: u64,
        most_ms: u64,
    },
    Pause {
        server: usize,
        ms: u64,
    },
    Kill {
        server: usize,
        down_ms: u64,
    },
    /// The store stands still.
    Freeze {
        ms: u64,
    },
    Empty,
    /// The store is killed and started, with what it had so long before, or all.
    Crash {
        down_ms: u64,
        lost_ms: Option<u64>,
    },
    Failover {
        down_ms: u64,
        lost_ms: u64,
    },
    /// The store is started with nothing.
    Lose {
        down_ms: u64,
    },
    /// Its clock is set, while servers are connected, or not.
    Leap {
        ms: i64,
        is_cut: bool,
    },
    /// ... and set back again.
    Blip {
        ms: i64,
        for_ms: u64,
    },
    SqlGone {
        ms: u64,
    },
    SqlSlow {
        ms: u64,
    },
    SqlFrozen {
        ms: u64,
    },
    /// Statements are carried out and not answered.
    SqlMute {
        ms: u64,
    },
}

impl FaultKind {
    pub const NAMES: [&'static str; 16] = [
        "cut",
        "deaf",
        "slow",
        "pause",
        "kill",
        "freeze",
        "empty",
        "crash",
        "failover",
        "lose",
        "leap",
        "blip",
        "sql-gone",
        "sql-slow",
        "sql-frozen",
        "sql-mute",
    ];

    /// One of the kind with this number in `NAMES`.
    fn draw(number: usize, servers: usize, rng: &mut fastrand::Rng) -> Self {
        let server = rng.usize(..servers);
        let down_ms = rng.u64(50..3000);
        let ms = match rng.u8(..3) {
            0 => rng.u64(100..1000),
            1 => rng.u64(500..3000),
            _ => rng.u64(2000..9000),
        };
        match number {
            0 => Self::Cut { server: rng.bool().then_some(server) },
            1 => Self::Deaf { server, ms },
            2 => Self::Slow { server, ms, most_ms: if rng.bool() { 700 } else { 200 } },
            3 => Self::Pause { server, ms },
            4 => Self::Kill { server, down_ms },
            5 => Self::Freeze { ms: ms.min(4000) },
            6 => Self::Empty,
            7 => Self::Crash { down_ms, lost_ms: rng.bool().then(|| rng.u64(..1000)) },
            8 => Self::Failover { down_ms, lost_ms: rng.u64(..1500) },
            9 => Self::Lose { down_ms },
            10 | 11 => {
                let size = match rng.u8(..4) {
                    0 => rng.i64(200..1000),
                    1 => rng.i64(1100..4000),
                    _ => rng.i64(3000..40_000),
                };
                let ms = if rng.u8(..3) == 0 { -size } else { size };
                match number {
                    10 => Self::Leap { ms, is_cut: rng.bool() },
                    _ => Self::Blip { ms, for_ms: rng.u64(20..900) },
                }
            }
            12 => Self::SqlGone { ms },
            13 => Self::SqlSlow { ms },
            14 => Self::SqlFrozen { ms },
            _ => Self::SqlMute { ms },
        }
    }

    pub fn name(self) -> &'static str {
        let number = match self {
            Self::Cut { .. } => 0,
            Self::Deaf { .. } => 1,
            Self::Slow { .. } => 2,
            Self::Pause { .. } => 3,
            Self::Kill { .. } => 4,
            Self::Freeze { .. } => 5,
            Self::Empty => 6,
            Self::Crash { .. } => 7,
            Self::Failover { .. } => 8,
            Self::Lose { .. } => 9,
            Self::Leap { .. } => 10,
            Self::Blip { .. } => 11,
            Self::SqlGone { .. } => 12,
            Self::SqlSlow { .. } => 13,
            Self::SqlFrozen { .. } => 14,
            Self::SqlMute { .. } => 15,
        };
        Self::NAMES[number]
    }
}

/// What clients of a history do at all: each history has some of it only, which finds more
/// than all at once.
struct Habits {
    long: f64,
    waits: f64,
    hang_ups: f64,
    repeats: f64,
    shortens: f64,
    breaks: f64,
    abandons: f64,
    fences: f64,
    strays: f64,
    gap_ms: u64,
    /// Requests of one holder overlap.
    overlaps: f64,
}

impl Habits {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let gap_ms = if rng.bool() { 600 } else { 3000 };
        let mut some = |chance: f64, value: f64| if rng.f64() < chance { value } else { 0.0 };
        Self {
            long: some(0.75, 0.7),
            waits: some(0.4, 0.5),
            hang_ups: some(0.4, 0.15),
            repeats: some(0.5, 0.25),
            shortens: some(0.5, 0.4),
            breaks: some(0.35, 0.2),
            abandons: some(0.4, 0.2),
            fences: some(0.5, 0.6),
            strays: some(0.4, 0.3),
            gap_ms,
            overlaps: some(0.4, 0.3),
        }
    }
}

impl History {
    pub fn generate(seed: u64, never: &[String]) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let servers = if rng.u8(..5) == 0 { 3 } else { 2 };
        let locks = if rng.u8(..4) == 0 { 2 } else { 1 };
        let holders = (0..rng.usize(2..=4))
            .map(|number| Holder { account: usize::from(number == 3), has_owner: number != 2 || rng.bool() })
            .collect();
        let habits = Habits::draw(&mut rng);
        let chance = |rng: &mut fastrand::Rng| match rng.u8(..4) {
            0 => 0.03,
            1 => 0.008,
            _ => 0.0,
        };
        let weather = Weather {
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
            weather,
            length_ms: rng.u64(12_000..35_000),
            steps: Vec::new(),
            faults: Vec::new(),
        };
        history.draw_steps(&habits, &mut rng);
        history.draw_faults(&mut rng);
        if rng.bool() {
            history.add_trouble(&mut rng);
        }
        history.put_in_order(never);
        history
    }

    /// Whether every message between servers and store arrives soon, and statements do unless
    /// SQL is away.
    pub fn is_calm(&self) -> bool {
        let Weather { late, lost, unanswered, sql_late, sql_unanswered, .. } = self.weather;
        let is_harmless = |fault: &Fault| {
            !matches!(
                fault.kind,
                FaultKind::Cut { .. }
                    | FaultKind::Deaf { .. }
                    | FaultKind::Slow { .. }
                    | FaultKind::Pause { .. }
                    | FaultKind::Freeze { .. }
            )
        };
        let is_fair = [late, lost, unanswered, sql_late, sql_unanswered].iter().all(|chance| *chance <= 0.0);
        is_fair && self.faults.iter().all(is_harmless)
    }

    fn draw_steps(&mut self, habits: &Habits, rng: &mut fastrand::Rng) {
        let mut steps = Vec::new();
        for holder in 0..self.holders.len() {
            let mut at_ms = rng.u64(..4000);
            let mut server = rng.usize(..self.servers);
            while at_ms < self.length_ms {
                let lock = rng.usize(..self.locks);
                let mut lease_ms = self.draw_lease(rng.f64() < habits.long, rng);
                let mut step = |at_ms: u64, act, rng: &mut fastrand::Rng| {
                    if rng.u8(..4) == 0 {
                        server = rng.usize(..self.servers);
                    }
                    let hang_up_ms = (rng.f64() < habits.hang_ups).then(|| rng.u64(..600));
                    steps.push(Step { at_ms, lock, holder, server, hang_up_ms, act });
                };
                let wait_ms = if rng.f64() < habits.waits { rng.u64(500..6000) } else { 0 };
                step(at_ms, Act::Acquire { lease_ms, wait_ms }, rng);
                at_ms += rng.u64(1..habits.gap_ms);
                while rng.u8(..10) < 7 {
                    if rng.f64() < habits.shortens {
                        lease_ms = self.draw_lease(rng.f64() < habits.long / 2.0, rng);
                    }
                    let act = match rng.f64() < habits.repeats {
                        true => Act::Acquire { lease_ms, wait_ms: 0 },
                        false => Act::Heartbeat { lease_ms, with_fence: rng.f64() < habits.fences },
                    };
                    step(at_ms, act, rng);
                    at_ms += match rng.f64() < habits.overlaps {
                        true => rng.u64(..20),
                        false => rng.u64(1..habits.gap_ms.min(lease_ms)),
                    };
                }
                if rng.f64() < habits.breaks {
                    step(at_ms, Act::Break, rng);
                } else if rng.f64() >= habits.abandons {
                    step(at_ms, Act::Release { with_fence: rng.f64() < habits.fences }, rng);
                }
                at_ms += rng.u64(1..habits.gap_ms);
                if rng.f64() < habits.strays {
                    step(at_ms, Act::Stray { lease_ms }, rng);
                    at_ms += rng.u64(1..habits.gap_ms);
                }
                if rng.u8(..3) == 0 {
                    at_ms += rng.u64(..4000);
                }
            }
        }
        self.steps = steps;
    }

    fn draw_lease(&self, is_long: bool, rng: &mut fastrand::Rng) -> u64 {
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
            // Most of what is dangerous is so within a moment of a request, or of another fault.
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

    fn put_in_order(&mut self, never: &[String]) {
        let is_never = |kind: FaultKind| never.iter().any(|never| never == kind.name());
        self.faults.retain(|fault: &Fault| fault.at_ms < self.length_ms && !is_never(fault.kind));
        self.faults.sort_by_key(|fault| fault.at_ms);
        self.steps.retain(|step| step.at_ms < self.length_ms);
        self.steps.sort_by_key(|step| step.at_ms);
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lock, holder, server, hang_up_ms, act, .. } = self;
        write!(f, "h{holder} -> s{server}: {act:?} of lock {lock}")?;
        hang_up_ms.map_or(Ok(()), |ms| write!(f, ", hangs up after {ms} ms"))
    }
}
