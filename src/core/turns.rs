//! Taking turns: senders that stream at the same time.
//!
//! Two of them that run on two processors would each draw a ticket every few messages, because the other has
//! drawn meanwhile, and each of these short runs is looked at by the router and by every receiver by itself:
//! for them it costs as much as a hundred messages. So who finds that it draws again and again in full flow
//! waits a moment before it does; meanwhile the other goes on with the ticket it has. Nobody else waits: not
//! who sends now and then, however many others there are.

use crate::clock::monotonic_nanos;

/// Draws after a few bytes, in full flow, from which on a sender waits.
const STREAK: u32 = 4;
/// A few bytes: more are worth a look at them.
const FEW: u64 = 1 << 10;
/// More bytes than a sender gets away with while another one waits: nobody else streams any more.
const MANY: u64 = 16 << 10;
/// Full flow: a byte of the lane in this many nanoseconds, or faster.
const SLOWEST: u64 = 4;
/// How long it waits, ns: what others send meanwhile is some hundred messages.
const TURN: u64 = 2000;

/// A sender's own view of that.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// When it last drew, ns, and where its lane was then.
    drew: u64,
    tail: u64,
    streak: u32,
}

impl Turns {
    /// Called before each draw, with the lane's tail.
    pub fn wait(&mut self, tail: u64) {
        let mut now = monotonic_nanos();
        if self.is_due(now, tail) {
            let until = now + TURN;
            while now < until {
                std::hint::spin_loop();
                now = monotonic_nanos();
            }
        }
        (self.drew, self.tail) = (now, tail);
    }

    /// True when others draw all the time while this one is in full flow.
    fn is_due(&mut self, now: u64, tail: u64) -> bool {
        let (took, sent) = (now.wrapping_sub(self.drew), tail.wrapping_sub(self.tail));
        if took > SLOWEST.saturating_mul(sent) || sent > MANY {
            self.streak = 0;
        } else if sent < FEW {
            self.streak = (self.streak + 1).min(STREAK + 1);
        }
        self.streak > STREAK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `draws` would be waited for, each after `bytes` in `nanos`.
    fn waits(draws: u64, bytes: u64, nanos: u64) -> usize {
        let mut turns = Turns::default();
        let mut one = |n| {
            let waits = turns.is_due(1_000_000 + n * nanos, n * bytes);
            (turns.drew, turns.tail) = (1_000_000 + n * nanos, n * bytes);
            waits
        };
        (1..=draws).filter(|&n| one(n)).count()
    }

    #[test]
    fn who_streams_waits_after_a_few_draws_and_others_never() {
        assert_eq!(waits(100, 96, 100), 95, "three small messages each time");
        assert_eq!(waits(100, 32, 1000), 0, "a million a second");
        assert_eq!(waits(100, 2048, 100), 0, "long runs");
        assert_eq!(waits(5, 96, 100), 0, "not for long enough");
    }

    #[test]
    fn it_waits_until_the_others_have_ceased() {
        let mut turns = Turns {
            streak: STREAK + 1,
            ..Turns::default()
        };
        assert!(turns.is_due(1000, 5000), "a turn of its own");
        assert!(!turns.is_due(10_000, 20_000), "alone");
        assert!(!turns.is_due(10_000, 20_096));
    }
}
