use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::addresses::network;

/// Lets each client address do only so many of something at once. Those beyond
/// wait for their turn, in the order in which they came: a hundred jobs that
/// start in one moment behind one address are to be slowed down, not refused.
pub struct Turns {
    at_once: usize,
    /// Of those addresses alone that have a turn or wait for one.
    lines: Mutex<HashMap<IpAddr, Line>>,
}

struct Line {
    turns: Arc<Semaphore>,
    /// How many have a turn or wait for one.
    length: usize,
}

/// An address's turn, for as long as this is kept.
pub struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: Place,
}

/// Why an address has no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// Too many wait for one already.
    LineFull,
    /// None came in time.
    TooLate,
}

/// A place in an address's line.
struct Place {
    all: Arc<Turns>,
    network: IpAddr,
}

impl Turns {
    /// How many of one address may have a turn or wait for it.
    pub const LINE_MAX: usize = 1_000;
    /// How long one waits for a turn. With the lookup that follows it is less
    /// than a request may take.
    pub const WAIT_MAX: Duration = Duration::from_secs(3);

    /// Lets each address do `at_once`.
    pub(super) fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self { at_once, lines: Mutex::default() })
    }

    /// Waits for the address's turn.
    ///
    /// # Errors
    /// See [`NoTurn`].
    pub async fn take(self: &Arc<Self>, address: IpAddr) -> Result<Turn, NoTurn> {
        let (turns, place) = self.line_up(network(address)).ok_or(NoTurn::LineFull)?;
        match timeout(Self::WAIT_MAX, turns.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn { _turn: turn, _place: place }),
            Ok(Err(_)) | Err(_) => Err(NoTurn::TooLate),
        }
    }

    fn line_up(self: &Arc<Self>, network: IpAddr) -> Option<(Arc<Semaphore>, Place)> {
        let mut lines = self.lines();
        let new = || Line { turns: Arc::new(Semaphore::new(self.at_once)), length: 0 };
        let line = lines.entry(network).or_insert_with(new);
        if line.length >= Self::LINE_MAX {
            return None;
        }
        line.length += 1;
        Some((line.turns.clone(), Place { all: self.clone(), network }))
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<IpAddr, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.all.lines();
        if let Some(line) = lines.get_mut(&self.network) {
            line.length -= 1;
            if line.length == 0 {
                lines.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    fn addresses() -> [IpAddr; 3] {
        ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|address| address.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_waits_for_a_turn_and_not_for_ever() {
        let turns = Turns::new(2);
        let [a, same, b] = addresses();
        let first = turns.take(a).await.unwrap();
        let second = turns.take(same).await.unwrap();
        let mut third = Box::pin(turns.take(a));
        assert!(third.as_mut().now_or_never().is_none(), "the same /64");
        assert!(turns.take(b).now_or_never().is_some_and(|turn| turn.is_ok()), "another one");
        drop(first);
        let third = third.now_or_never().expect("its turn has come").unwrap();

        let begun = tokio::time::Instant::now();
        assert_eq!(turns.take(a).await.err(), Some(NoTurn::TooLate));
        assert_eq!(begun.elapsed().as_secs(), Turns::WAIT_MAX.as_secs());
        drop((second, third));
        assert!(turns.lines().is_empty(), "nothing is left of those who went");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_has_an_end() {
        let turns = Turns::new(1);
        let [a, ..] = addresses();
        let turn = turns.take(a).await.unwrap();
        let mut waiting = Box::pin(join_all((1..Turns::LINE_MAX).map(|_| turns.take(a))));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(turns.take(a).now_or_never().expect("an answer at once").err(), Some(NoTurn::LineFull));
        drop(waiting);
        drop(turn);
        assert!(turns.take(a).await.is_ok());
    }
}
