use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Instant,
};

/// The time during which a client relied on a grant, by its own clock: from when
/// it had the answer, until it sent the release, was told that the lock is lost,
/// or the lease had lapsed that was confirmed last, counted from before that was
/// asked for.
#[derive(Clone, Debug)]
pub struct Stint {
    pub name: String,
    pub holder: String,
    pub fence: u64,
    /// Just before the acquire was sent.
    pub asked: Instant,
    pub from: Instant,
    pub until: Instant,
}

/// What all clients have relied on.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<Stint>>>);

/// What must never be.
pub enum Violation {
    /// Two held one lock at once.
    Overlap(Stint, Stint),
    /// Who asked later has a fence that is no larger.
    FallingFence(Stint, Stint),
}

impl History {
    pub fn add(&self, stint: Stint) {
        self.0.lock().unwrap().push(stint);
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The first grant that was asked for after that moment.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        let stints = self.0.lock().unwrap();
        stints.iter().filter(|stint| stint.asked > moment).map(|stint| stint.from).min()
    }

    pub fn check(&self) -> Vec<Violation> {
        let mut by_name = BTreeMap::<String, Vec<Stint>>::new();
        for stint in self.0.lock().unwrap().iter() {
            by_name.entry(stint.name.clone()).or_default().push(stint.clone());
        }
        let mut violations = Vec::new();
        for stints in by_name.values_mut() {
            stints.sort_by_key(|stint| stint.from);
            for (at, early) in stints.iter().enumerate() {
                for late in &stints[at + 1..] {
                    // Who had the answer after the lease had lapsed relied on nothing.
                    let is_real = late.from < late.until;
                    if is_real && early.holder != late.holder && late.from < early.until {
                        violations.push(Violation::Overlap(early.clone(), late.clone()));
                    }
                    let is_same = early.holder == late.holder && early.fence == late.fence;
                    if late.asked > early.from && late.fence <= early.fence && !is_same {
                        violations.push(Violation::FallingFence(early.clone(), late.clone()));
                    }
                }
            }
        }
        violations
    }

    #[track_caller]
    pub fn assert_sound(&self) {
        let violations = self.check();
        let shown: String = violations.iter().take(10).map(|violation| format!("{violation}\n")).collect();
        assert!(violations.is_empty(), "{} violations in {} grants\n{shown}", violations.len(), self.len());
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, early, late) = match self {
            Self::Overlap(early, late) => ("both hold", early, late),
            Self::FallingFence(early, late) => ("a fence falls for", early, late),
        };
        let show = |stint: &Stint| {
            let since = |moment: Instant| moment.saturating_duration_since(early.asked).as_millis();
            let (asked, from, until) = (since(stint.asked), since(stint.from), since(stint.until));
            format!("{} under {}, asked at {asked} ms, from {from} to {until}", stint.holder, stint.fence)
        };
        write!(f, "{what} {}: {}; {}", early.name, show(early), show(late))
    }
}
