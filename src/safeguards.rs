//! The safeguards of the safety protocol. Each safeguard fixes a violation that was found. A build for the
//! simulator (feature `simulation`) can switch each safeguard off in a thread, to prove that the
//! simulator finds the violation. In every other build all safeguards are on, and the compiler removes
//! the check.

/// A safeguard. Scripts mark theirs with `-- safeguard: NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Safeguard {
    /// A shorter lease is written to the journal first, then to the store.
    ShorteningJournaled,
    /// A broken grant keeps its lock closed until the journal has recorded the end.
    BreakJournaled,
    /// No operation is confirmed until a recovery has compared the grants with the journal.
    ClosedIsUnsettled,
    /// The journal row of a heartbeat or a repeat omits the attempt, so that no revert removes the
    /// restored grant.
    AttemptForgotten,
    /// A repeated acquire of a grant from before a recovery issues a new fencing token.
    Refenced,
    /// Only a heartbeat with the fencing token proves that its holder has kept a grant from before a
    /// recovery. After a heartbeat without it, a repeated acquire issues a new token, too.
    FenceProven,
    /// A journal row keeps the change with the largest sequence number.
    JournalOrder,
    /// A journal row that has ended is never overwritten.
    EndIsFinal,
    /// A recovery also removes a grant that a later grant followed, even if the later one has ended.
    OlderGrantRemoved,
    /// After the journal has recorded an end, the server removes the grant if a recovery has restored
    /// it meanwhile.
    EndSettled,
    /// The store lists ended grants, so that any server can record them in the journal.
    EndSurvives,
    /// A server that refuses a release records the end of the grant: the server that executed an
    /// earlier release, and got no answer, does not know the grant.
    EndTakenOver,
    /// The largest fencing token is stored in SQL. After a loss, new ones are larger.
    FenceFloor,
    /// The floor of new fencing tokens is stored before a recovery ends, since another loss may
    /// precede the first of them.
    FloorNoted,
    /// A recovery that ends or replaces a grant also removes it from its account's index.
    IndexCorrected,
    /// No request returns 503 before its command's deadline has passed.
    AnswerSettled,
    /// A server that was paused rejects the requests that wait in its sockets.
    StallDetected,
    /// The last sample of the store's clock survives a reconnect.
    JumpAcrossReconnect,
    /// After a clock jump, grants are closed before commands use the new time.
    JumpClosedFirst,
    /// A clock jump restarts a recovery that is in progress, even if its epoch has risen since.
    RecoveryRestarted,
    /// A server that detects a clock jump begins a recovery, unless the last recovery certainly began
    /// after the jump.
    BegunBeforeJump,
    /// Data that was rolled back begins one recovery, not one at each check.
    RollbackOnce,
    /// A script does nothing after its command's deadline.
    Deadline,
    /// A server reverts a grant whose reply was lost.
    CancelAfter503,
    /// A revert waits for a recovery that may restore the grant to revert.
    RevertSettled,
    /// A wait that ends without a grant reverts what an unanswered command may have acquired.
    WaitReverted,
    /// A queued request does not shorten a lease that its owner acquired later.
    LaterLeaseKept,
    /// No lock is granted until lost short leases have expired.
    RecoveryWait,
    /// A journal row is written only in the newest epoch.
    EpochWrites,
}

#[cfg(not(feature = "simulation"))]
#[inline]
pub const fn is_on(_: Safeguard) -> bool {
    true
}

#[cfg(feature = "simulation")]
pub use switch::{apply, is_on, lua_key, set_off};

#[cfg(feature = "simulation")]
mod switch {
    use std::cell::Cell;

    use super::Safeguard;

    thread_local! {
        static OFF: Cell<Option<Safeguard>> = const { Cell::new(None) };
    }

    impl Safeguard {
        pub const ALL: [Self; 29] = [
            Self::ShorteningJournaled,
            Self::BreakJournaled,
            Self::ClosedIsUnsettled,
            Self::AttemptForgotten,
            Self::Refenced,
            Self::FenceProven,
            Self::JournalOrder,
            Self::EndIsFinal,
            Self::OlderGrantRemoved,
            Self::EndSettled,
            Self::EndSurvives,
            Self::EndTakenOver,
            Self::FenceFloor,
            Self::FloorNoted,
            Self::IndexCorrected,
            Self::AnswerSettled,
            Self::StallDetected,
            Self::JumpAcrossReconnect,
            Self::JumpClosedFirst,
            Self::RecoveryRestarted,
            Self::BegunBeforeJump,
            Self::RollbackOnce,
            Self::Deadline,
            Self::CancelAfter503,
            Self::RevertSettled,
            Self::WaitReverted,
            Self::LaterLeaseKept,
            Self::RecoveryWait,
            Self::EpochWrites,
        ];

        pub fn name(self) -> String {
            format!("{self:?}")
        }
    }

    /// Whether a safeguard is on in this thread.
    pub fn is_on(safeguard: Safeguard) -> bool {
        OFF.get() != Some(safeguard)
    }

    /// Switches one safeguard off in this thread, and all others on.
    pub fn set_off(safeguard: Option<Safeguard>) {
        OFF.set(safeguard);
    }

    /// The cache key of the scripts' texts in this thread.
    pub fn lua_key() -> Option<Safeguard> {
        OFF.get()
    }

    /// Removes the lines of the safeguard that is off, and enables the lines that replace them.
    pub fn apply(source: &str) -> String {
        let Some(off) = OFF.get().map(Safeguard::name) else { return source.to_owned() };
        let (begin, instead) = (format!("-- safeguard: {off}"), format!("--@off {off}: "));
        let (mut text, mut is_in) = (String::with_capacity(source.len()), false);
        for line in source.lines() {
            let trimmed = line.trim_start();
            is_in |= trimmed == begin;
            let kept = trimmed.strip_prefix(&instead).unwrap_or(if is_in { "" } else { line });
            text.push_str(kept);
            text.push('\n');
            is_in &= trimmed != "-- safeguard end";
        }
        text
    }
}
