//! When to fork a dead worker again: at once, unless it keeps dying young.

use std::time::{Duration, Instant};

/// A worker that lived this long was healthy.
const YOUNG: Duration = Duration::from_secs(1);
/// So many early deaths in a row are taken for bad luck (or for a visitor who
/// likes the kill button).
const TOLERATED: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Guards one slot against a worker that dies again and again.
#[derive(Debug, Default)]
pub struct CrashGuard {
    born: Option<Instant>,
    early_deaths: u32,
}

impl CrashGuard {
    /// A worker was forked.
    pub fn born(&mut self, now: Instant) {
        self.born = Some(now);
    }

    /// The worker died: how long to wait before the next fork.
    pub fn died(&mut self, now: Instant) -> Duration {
        let age = self
            .born
            .map_or(Duration::ZERO, |born| now.saturating_duration_since(born));
        if age >= YOUNG {
            self.early_deaths = 0;
            return Duration::ZERO;
        }
        self.early_deaths += 1;
        self.pause()
    }

    /// Whether there has been a worker in this slot.
    pub fn was_born(&self) -> bool {
        self.born.is_some()
    }

    /// Early deaths in a row.
    pub fn early_deaths(&self) -> u32 {
        self.early_deaths
    }

    fn pause(&self) -> Duration {
        if self.early_deaths <= TOLERATED {
            return Duration::ZERO;
        }
        let doublings = (self.early_deaths - TOLERATED - 1).min(16);
        (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn die_after(guard: &mut CrashGuard, age: Duration) -> Duration {
        let now = Instant::now();
        guard.born(now);
        guard.died(now + age)
    }

    #[test]
    fn a_worker_that_lived_is_forked_again_at_once() {
        let mut guard = CrashGuard::default();
        for _ in 0..100 {
            assert_eq!(die_after(&mut guard, YOUNG), Duration::ZERO);
        }
    }

    #[test]
    fn early_deaths_in_a_row_make_longer_and_longer_pauses_up_to_a_limit() {
        let mut guard = CrashGuard::default();
        let pauses: Vec<_> = (0..40).map(|_| die_after(&mut guard, YOUNG / 2)).collect();
        assert_eq!(
            pauses[..TOLERATED as usize],
            [Duration::ZERO; TOLERATED as usize]
        );
        assert_eq!(pauses[TOLERATED as usize], FIRST_PAUSE);
        assert!(pauses.is_sorted());
        assert_eq!(*pauses.last().unwrap(), LONGEST_PAUSE);
    }

    #[test]
    fn one_long_life_clears_the_record() {
        let mut guard = CrashGuard::default();
        for _ in 0..10 {
            die_after(&mut guard, Duration::ZERO);
        }
        die_after(&mut guard, YOUNG);
        assert_eq!(die_after(&mut guard, Duration::ZERO), Duration::ZERO);
    }
}
