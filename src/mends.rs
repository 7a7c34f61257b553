//! The mends of the safety protocol: each closes a hole that was found. In a build for the
//! simulator (feature `simulation`) each can be switched off in a thread, so that the
//! simulator can show that it would find the hole. In every other build all are on, and
//! the compiler removes the question.

/// A mend. Those of scripts are marked there with `-- mend: NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mend {
    /// A lease gets shorter in the journal first, then in the store.
    ShorteningJournaled,
    /// A broken grant keeps its lock closed until the journal has recorded the end.
    BreakJournaled,
    /// Nothing is confirmed until a recovery has compared the grants with the journal.
    ClosedIsUnsettled,
    /// A heartbeat or a repeat is recorded without the attempt, so that no undo takes the
    /// restored grant back.
    AttemptForgotten,
    /// A grant from before a recovery is fenced anew when its owner asks again.
    FencedAnew,
    /// A journal row keeps the change with the largest number.
    JournalOrder,
    /// A journal row that has ended is not written again.
    EndKept,
    /// A recovery removes a grant that was followed by another, though that has ended, too.
    OlderRemoved,
    /// Once the journal has recorded an end, the grant is removed if a recovery has restored
    /// it meanwhile.
    EndSettled,
    /// The store lists ended grants, and any server records them.
    EndSurvives,
    /// Fences are noted in SQL, and start above the largest one after a loss.
    FenceFloor,
    /// What a recovery starts fences above is noted before it ends: another loss may follow
    /// before the first of them is.
    FloorNoted,
    /// A recovery that ends or replaces a grant takes it from its account's index, too.
    IndexCorrected,
    /// No 503 is answered before the command's deadline has passed.
    AnswerSettled,
    /// A server that stood still refuses what it finds in its sockets.
    StallNoticed,
    /// The last reading of the store's clock outlives the connection.
    LeapAcrossReconnect,
    /// After a leap grants are closed before commands are sent by the new time.
    LeapClosedFirst,
    /// A recovery that was under way when the clock leapt begins anew, though its epoch has
    /// risen since.
    BegunAnew,
    /// A server that notices a leap begins a recovery, unless the last one has surely begun
    /// after the leap.
    BegunBeforeLeap,
    /// Data that is older than it was begins one recovery, and no further one each time that a
    /// server looks.
    CutBackOnce,
    /// Scripts do nothing after the command's deadline.
    Deadline,
    /// A grant whose answer is lost is taken back.
    CancelAfter503,
    /// An undo waits for a recovery that may restore what it is to take back.
    UndoSettled,
    /// A wait that ends without a grant takes back what an unanswered command may have got.
    WaitReverted,
    /// A queued request does not shorten a lease that its owner got by a later one.
    LaterLeaseKept,
    /// Nothing is granted until short leases that were forgotten have lapsed.
    RecoveryWait,
    /// A journal row is written only in the newest epoch.
    EpochWrites,
}

#[cfg(not(feature = "simulation"))]
#[inline]
pub const fn is_on(_: Mend) -> bool {
    true
}

#[cfg(feature = "simulation")]
pub use switch::{apply, is_on, lua_key, set_off};

#[cfg(feature = "simulation")]
mod switch {
    use std::cell::Cell;

    use super::Mend;

    thread_local! {
        static OFF: Cell<Option<Mend>> = const { Cell::new(None) };
    }

    impl Mend {
        pub const ALL: [Self; 27] = [
            Self::ShorteningJournaled,
            Self::BreakJournaled,
            Self::ClosedIsUnsettled,
            Self::AttemptForgotten,
            Self::FencedAnew,
            Self::JournalOrder,
            Self::EndKept,
            Self::OlderRemoved,
            Self::EndSettled,
            Self::EndSurvives,
            Self::FenceFloor,
            Self::FloorNoted,
            Self::IndexCorrected,
            Self::AnswerSettled,
            Self::StallNoticed,
            Self::LeapAcrossReconnect,
            Self::LeapClosedFirst,
            Self::BegunAnew,
            Self::BegunBeforeLeap,
            Self::CutBackOnce,
            Self::Deadline,
            Self::CancelAfter503,
            Self::UndoSettled,
            Self::WaitReverted,
            Self::LaterLeaseKept,
            Self::RecoveryWait,
            Self::EpochWrites,
        ];

        pub fn name(self) -> String {
            format!("{self:?}")
        }
    }

    /// Whether a mend is in force in this thread.
    pub fn is_on(mend: Mend) -> bool {
        OFF.get() != Some(mend)
    }

    /// Switches one mend off in this thread, and all others on.
    pub fn set_off(mend: Option<Mend>) {
        OFF.set(mend);
    }

    /// Tells apart the texts that scripts have in this thread.
    pub fn lua_key() -> Option<Mend> {
        OFF.get()
    }

    /// A script without the lines of the mend that is off, and with those that stand in
    /// for them.
    pub fn apply(source: &str) -> String {
        let Some(off) = OFF.get().map(Mend::name) else { return source.to_owned() };
        let (begin, instead) = (format!("-- mend: {off}"), format!("--@off {off}: "));
        let (mut text, mut is_in) = (String::with_capacity(source.len()), false);
        for line in source.lines() {
            let trimmed = line.trim_start();
            is_in |= trimmed == begin;
            let kept = trimmed.strip_prefix(&instead).unwrap_or(if is_in { "" } else { line });
            text.push_str(kept);
            text.push('\n');
            is_in &= trimmed != "-- mend end";
        }
        text
    }
}
