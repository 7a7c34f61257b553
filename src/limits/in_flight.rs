use std::sync::atomic::{AtomicU32, Ordering};

/// How much may be worked on at once. Nobody waits for a place, so this is no more
/// than a count.
pub struct Places {
    taken: AtomicU32,
    max: u32,
}

impl Places {
    pub fn new(max: u32) -> Self {
        Self { taken: AtomicU32::new(0), max }
    }

    /// Takes a place; `false` when there is none.
    pub fn take(&self) -> bool {
        let is_free = self.taken.fetch_add(1, Ordering::Relaxed) < self.max;
        if !is_free {
            self.give_back();
        }
        is_free
    }

    /// Gives a place back that was taken.
    pub fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_there_are() {
        let places = Places::new(2);
        assert_eq!([places.take(), places.take(), places.take(), places.take()], [true, true, false, false]);
        places.give_back();
        assert_eq!([places.take(), places.take()], [true, false]);
    }
}
