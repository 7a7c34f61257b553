use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Lets each of many, client addresses for example, do only so many of something at
/// once. Those beyond wait for their turn, in the order in which they came: a hundred
/// jobs that start in one moment behind one address are to be slowed down, not refused.
pub struct Turns<K: Copy + Eq + Hash> {
    at_once: usize,
    line_max: usize,
    /// Of those alone that have a turn or wait for one.
    lines: Mutex<HashMap<K, Line>>,
}

struct Line {
    turns: Arc<Semaphore>,
    /// How many have a turn or wait for one.
    length: usize,
}

/// A turn, for as long as this is kept.
pub struct Turn<K: Copy + Eq + Hash> {
    _turn: OwnedSemaphorePermit,
    _place: Place<K>,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// Too many wait for one already.
    LineFull,
    /// None came in time.
    TooLate,
}

/// A place in a line.
struct Place<K: Copy + Eq + Hash> {
    all: Arc<Turns<K>>,
    of: K,
}

impl<K: Copy + Eq + Hash> Turns<K> {
    /// How long one waits for a turn. With the lookup that follows it is less
    /// than a request may take.
    pub const WAIT_MAX: Duration = Duration::from_secs(3);

    /// Lets each do `at_once`, and `line_max` of each have a turn or wait for it.
    pub fn new(at_once: usize, line_max: usize) -> Arc<Self> {
        Arc::new(Self { at_once, line_max, lines: Mutex::default() })
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// See [`NoTurn`].
    pub async fn take(self: &Arc<Self>, of: impl Into<K>) -> Result<Turn<K>, NoTurn> {
        let (turns, place) = self.line_up(of.into()).ok_or(NoTurn::LineFull)?;
        match timeout(Self::WAIT_MAX, turns.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn { _turn: turn, _place: place }),
            Ok(Err(_)) | Err(_) => Err(NoTurn::TooLate),
        }
    }

    fn line_up(self: &Arc<Self>, of: K) -> Option<(Arc<Semaphore>, Place<K>)> {
        let mut lines = self.lines();
        let new = || Line { turns: Arc::new(Semaphore::new(self.at_once)), length: 0 };
        let line = lines.entry(of).or_insert_with(new);
        if line.length >= self.line_max {
            return None;
        }
        line.length += 1;
        Some((line.turns.clone(), Place { all: self.clone(), of }))
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<K, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut lines = self.all.lines();
        if let Some(line) = lines.get_mut(&self.of) {
            line.length -= 1;
            if line.length == 0 {
                lines.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_waits_for_a_turn_and_not_for_ever() {
        let turns = Turns::<char>::new(2, 10);
        let first = turns.take('a').await.unwrap();
        let second = turns.take('a').await.unwrap();
        let mut third = Box::pin(turns.take('a'));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(turns.take('b').now_or_never().is_some_and(|turn| turn.is_ok()), "another one");
        drop(first);
        let third = third.now_or_never().expect("its turn has come").unwrap();

        let begun = tokio::time::Instant::now();
        assert_eq!(turns.take('a').await.err(), Some(NoTurn::TooLate));
        assert_eq!(begun.elapsed().as_secs(), Turns::<char>::WAIT_MAX.as_secs());
        drop((second, third));
        assert!(turns.lines().is_empty(), "nothing is left of those who went");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_has_an_end() {
        let turns = Turns::<char>::new(1, 10);
        let turn = turns.take('a').await.unwrap();
        let mut waiting = Box::pin(join_all((1..10).map(|_| turns.take('a'))));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(turns.take('a').now_or_never().expect("an answer at once").err(), Some(NoTurn::LineFull));
        drop(waiting);
        drop(turn);
        assert!(turns.take('a').await.is_ok());
    }
}
