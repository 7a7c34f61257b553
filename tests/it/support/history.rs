use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Instant,
};

/// The time in which a client relied on a grant, by the client's clock. It begins when the client
/// receives the response. It ends when the client sends the release, learns that the lock is lost,
/// or when the last confirmed lease expires, counted from before the request for it was sent.
#[derive(Clone, Debug)]
pub struct HoldPeriod {
    pub name: String,
    pub holder: String,
    pub fence: u64,
    /// Just before the client sent the acquire.
    pub sent: Instant,
    pub from: Instant,
    pub until: Instant,
}

/// The hold periods of all clients.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<HoldPeriod>>>);

/// A violation of mutual exclusion or of fencing.
pub enum Violation {
    /// Two clients held one lock at once.
    Overlap(HoldPeriod, HoldPeriod),
    /// A later acquire got a fencing token that is not larger.
    DecreasingFence(HoldPeriod, HoldPeriod),
}

impl History {
    pub fn add(&self, period: HoldPeriod) {
        self.0.lock().unwrap().push(period);
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Returns the time of the first grant whose acquire was sent after that moment.
    pub fn first_grant_after(&self, moment: Instant) -> Option<Instant> {
        let periods = self.0.lock().unwrap();
        periods.iter().filter(|period| period.sent > moment).map(|period| period.from).min()
    }

    pub fn check(&self) -> Vec<Violation> {
        let mut by_name = BTreeMap::<String, Vec<HoldPeriod>>::new();
        for period in self.0.lock().unwrap().iter() {
            by_name.entry(period.name.clone()).or_default().push(period.clone());
        }
        let mut violations = Vec::new();
        for periods in by_name.values_mut() {
            periods.sort_by_key(|period| period.from);
            for (at, earlier) in periods.iter().enumerate() {
                for later in &periods[at + 1..] {
                    // A client that receives the response after the lease expired relies on
                    // nothing.
                    let is_real = later.from < later.until;
                    if is_real && earlier.holder != later.holder && later.from < earlier.until {
                        violations.push(Violation::Overlap(earlier.clone(), later.clone()));
                    }
                    let is_same_grant = earlier.holder == later.holder && earlier.fence == later.fence;
                    if later.sent > earlier.from && later.fence <= earlier.fence && !is_same_grant {
                        violations.push(Violation::DecreasingFence(earlier.clone(), later.clone()));
                    }
                }
            }
        }
        violations
    }

    #[track_caller]
    pub fn assert_no_violation(&self) {
        let violations = self.check();
        let shown: String = violations.iter().take(10).map(|violation| format!("{violation}\n")).collect();
        assert!(violations.is_empty(), "{} violations in {} grants\n{shown}", violations.len(), self.len());
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, earlier, later) = match self {
            Self::Overlap(earlier, later) => ("both hold", earlier, later),
            Self::DecreasingFence(earlier, later) => ("a fence decreases for", earlier, later),
        };
        let show = |period: &HoldPeriod| {
            let since = |moment: Instant| moment.saturating_duration_since(earlier.sent).as_millis();
            let (sent, from, until) = (since(period.sent), since(period.from), since(period.until));
            format!("{} with fence {}, sent at {sent} ms, from {from} to {until}", period.holder, period.fence)
        };
        write!(f, "{what} {}: {}; {}", earlier.name, show(earlier), show(later))
    }
}
