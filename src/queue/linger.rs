//! Lingering: a core at an empty queue waits a moment for more before it arms and goes to sleep.
//!
//! Waking a sleeper on another processor costs more than routing a thousand messages, and a core
//! that drains its queue faster than it is filled would sleep and be woken once per pass. While it
//! lingers it lets others use its processor, and asks for nothing.
//!
//! It adapts: lingering in vain is repeated after twice as many sleeps each time, so that a core
//! whose messages come one by one, or in bursts far apart, soon sleeps at once.

use std::time::{Duration, Instant};

/// Longest linger.
const LONGEST: Duration = Duration::from_millis(10);
/// Doublings of the sleeps between two lingers in vain: one in 64.
const MOST: u32 = 6;

/// How a core lingers.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    limit: Duration,
    /// Lingers in vain in a row, at most [`MOST`].
    misses: u32,
    /// Sleeps to come without a linger.
    skips: u32,
}

impl Linger {
    /// From now on at most `limit`, or [`LONGEST`] if that is shorter; zero: not at all.
    pub fn set(&mut self, limit: Duration) {
        *self = Self {
            limit: limit.min(LONGEST),
            ..Self::default()
        };
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        !self.limit.is_zero()
    }

    /// Waits until `has_news`, for as long as seems worth it.
    #[cold]
    pub fn wait(&mut self, has_news: impl Fn() -> bool) {
        if self.skips > 0 {
            self.skips -= 1;
            return;
        }
        let start = Instant::now();
        loop {
            std::thread::yield_now();
            if has_news() {
                self.misses = 0;
                return;
            }
            if start.elapsed() >= self.limit {
                break;
            }
        }
        self.misses = (self.misses + 1).min(MOST);
        self.skips = (1 << self.misses) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// How many of `sleeps` were put off by a linger at all, when nothing ever comes.
    fn lingers_in_vain(linger: &mut Linger, sleeps: usize) -> usize {
        let lingered = |linger: &mut Linger| {
            let looked = Cell::new(false);
            linger.wait(|| {
                looked.set(true);
                false
            });
            looked.get()
        };
        (0..sleeps).filter(|_| lingered(linger)).count()
    }

    fn linger() -> Linger {
        let mut linger = Linger::default();
        linger.set(Duration::from_nanos(1));
        linger
    }

    #[test]
    fn it_is_off_until_it_is_asked_for() {
        assert!(!Linger::default().is_on());
        assert!(linger().is_on());
        let mut linger = linger();
        linger.set(Duration::ZERO);
        assert!(!linger.is_on());
    }

    #[test]
    fn what_is_seldom_worth_it_is_seldom_done() {
        let mut linger = linger();
        assert_eq!(
            lingers_in_vain(&mut linger, 127),
            7,
            "after 0, 1, 3 … 63 sleeps"
        );
        assert_eq!(lingers_in_vain(&mut linger, 640), 10, "one in 64");
    }

    #[test]
    fn what_was_worth_it_is_done_again() {
        let mut linger = linger();
        lingers_in_vain(&mut linger, 1000);
        while linger.skips > 0 {
            linger.wait(|| unreachable!("it sleeps at once"));
        }
        for looks in 1..100 {
            let left = Cell::new(looks);
            // However long the test is stopped in between: a limit of its own.
            linger.limit = LONGEST;
            linger.wait(|| {
                left.set(left.get() - 1);
                left.get() == 0
            });
            if left.get() == 0 {
                assert_eq!((linger.misses, linger.skips), (0, 0));
            }
        }
    }

    #[test]
    fn nobody_lingers_longer_than_that() {
        let mut linger = Linger::default();
        linger.set(Duration::MAX);
        assert_eq!(linger.limit, LONGEST);
    }
}
