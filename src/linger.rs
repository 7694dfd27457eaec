//! Lingering: who finds nothing to do waits a moment for more before it goes to sleep.
//!
//! Waking a sleeper on another processor costs more than routing a thousand messages. A core that
//! drains its queue faster than it is filled would sleep and be woken once per pass, a master once per
//! message of a conversation.
//!
//! It adapts: lingering in vain is repeated after twice as many sleeps each time, so that a core
//! whose messages come one by one, or in bursts far apart, soon sleeps at once. Where others have so
//! much to do that they give the processor back late, it is hardly ever tried: a sleeper that is woken
//! goes before them, one that has given way waits for its turn.

use std::time::{Duration, Instant};

/// Longest linger.
const LONGEST: Duration = Duration::from_millis(10);
/// Doublings of the sleeps between two lingers in vain: one in 64 for who waits for nobody but itself.
pub(crate) const OFTEN: u32 = 6;
/// One in 256 for whom others wait for: it holds up less than one in a hundred of them.
pub(crate) const SELDOM: u32 = 8;
/// What a linger takes longer than its limit when others keep the processor: a time slice is more.
const LATE: Duration = Duration::from_millis(1);
/// Doublings of the sleeps between two lingers that came late: one in 256 to 4,096.
const LATES: [u32; 2] = [8, 12];

/// How somebody lingers.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    limit: Duration,
    /// Doublings at most, unless it comes late.
    most: u32,
    /// Doublings: how often in a row it was in vain or came late.
    misses: u32,
    /// Sleeps to come without a linger.
    skips: u32,
}

impl Linger {
    /// At most `limit`, or [`LONGEST`] if that is shorter; zero: not at all. In vain it is done [`OFTEN`]
    /// or [`SELDOM`].
    pub fn of(limit: Duration, most: u32) -> Self {
        Self {
            limit: limit.min(LONGEST),
            most,
            ..Self::default()
        }
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        !self.limit.is_zero()
    }

    /// Waits until `has_news`, for as long as seems worth it, and lets others use the processor
    /// meanwhile; true when it has.
    #[cold]
    pub fn wait(&mut self, has_news: impl FnMut() -> bool) -> bool {
        self.look(std::thread::yield_now, has_news)
    }

    /// The same for one whom others wait for: keeps the processor, for who gives it away may get it
    /// back late even where another one is idle.
    #[cold]
    pub fn wait_awake(&mut self, has_news: impl FnMut() -> bool) -> bool {
        self.look(std::hint::spin_loop, has_news)
    }

    fn look(&mut self, pause: fn(), mut has_news: impl FnMut() -> bool) -> bool {
        if !self.is_due() {
            return false;
        }
        let start = Instant::now();
        loop {
            pause();
            let found = has_news();
            let waited = start.elapsed();
            if found || waited >= self.limit {
                self.learn(found, waited);
                return found;
            }
        }
    }

    /// Lets others use the processor once; false when it is not worth it.
    pub fn give_way(&mut self) -> bool {
        self.wait(|| true)
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.skips == 0;
        self.skips = self.skips.saturating_sub(1);
        is_due
    }

    fn learn(&mut self, found: bool, waited: Duration) {
        self.misses = if waited > self.limit + LATE {
            (self.misses + 1).clamp(LATES[0], LATES[1])
        } else if found {
            0
        } else {
            (self.misses + 1).min(self.most.max(self.misses))
        };
        self.skips = (1 << self.misses) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `sleeps` are put off by a linger at all, when nothing ever comes.
    fn lingers_in_vain(linger: &mut Linger, sleeps: usize) -> usize {
        let lingered = |linger: &mut Linger| {
            let is_due = linger.is_due();
            if is_due {
                linger.learn(false, Duration::ZERO);
            }
            is_due
        };
        (0..sleeps).filter(|_| lingered(linger)).count()
    }

    fn linger() -> Linger {
        Linger::of(Duration::from_nanos(1), OFTEN)
    }

    #[test]
    fn it_is_off_until_it_is_asked_for() {
        assert!(!Linger::default().is_on());
        assert!(linger().is_on());
        assert!(!Linger::of(Duration::ZERO, OFTEN).is_on());
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
        assert!(linger.skips > 0);
        linger.learn(true, Duration::ZERO);
        assert_eq!(lingers_in_vain(&mut linger, 1), 1);
    }

    #[test]
    fn it_looks_until_there_is_something() {
        let (mut linger, mut looks) = (Linger::of(LONGEST, OFTEN), 0);
        let found = linger.wait(|| {
            looks += 1;
            looks == 3
        });
        // However long the test is stopped in between.
        assert!(found && looks == 3 || looks < 3 && !found);
    }

    #[test]
    fn nobody_lingers_longer_than_that() {
        assert_eq!(Linger::of(Duration::MAX, OFTEN).limit, LONGEST);
    }

    #[test]
    fn who_got_the_processor_back_late_sleeps_at_once_many_times() {
        let mut linger = linger();
        for skips in [255, 511, 1023, 2047, 4095, 4095] {
            // Late with or without news.
            linger.learn(skips > 1000, 2 * LATE);
            assert_eq!(linger.skips, skips);
        }
        linger.learn(false, Duration::ZERO);
        assert_eq!(linger.skips, 4095, "no reason to try sooner");
        linger.learn(true, Duration::ZERO);
        assert_eq!(linger.skips, 0);
    }
}
