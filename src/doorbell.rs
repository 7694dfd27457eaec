//! The doorbell: tells the router which lanes have news, and whether it must be woken.
//!
//! Two levels: one bit per slot in a leaf word, one bit per leaf in the summary word. Bit 63 of
//! the summary says that the router sleeps. A pass of the router costs what was rung, not what
//! exists.
//!
//! A ringer sets its leaf bit, then its summary bit, always both: if it relied on another's
//! summary bit and that process died between the two, its own news would be lost. A ringer does
//! not clear the sleeping bit, it only notifies when it sees it: a ringer that is stopped before
//! its notification then takes nobody else's away. The price is a second `write` from a sender
//! that rings while the router is still waking up.
//!
//! Who writes: all cores set bits; the router clears them and owns the sleeping bit.

use crate::sync::{AtomicU64, Ordering, order};

/// Most slots a hub can have: one summary bit per leaf, less the sleeping bit.
pub(crate) const MAX_SLOTS: usize = LEAVES * 64;
/// Leaf words. One in the models: each atomic costs the checker.
pub(crate) const LEAVES: usize = if cfg!(loom) { 1 } else { 63 };
const ASLEEP: u64 = 1 << 63;

#[repr(C, align(128))]
#[derive(Debug)]
struct Line(AtomicU64);

/// The shared bitmap. Each word is alone on its cache lines.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Bit `i`: leaf `i` may be non-zero. Bit 63: the router sleeps.
    summary: Line,
    leaves: [Line; LEAVES],
}

impl Doorbell {
    #[cfg(any(test, loom))]
    pub fn new() -> Self {
        Self {
            summary: Line(AtomicU64::new(0)),
            leaves: std::array::from_fn(|_| Line(AtomicU64::new(0))),
        }
    }

    /// Marks `slot`; true when the router sleeps and the caller must notify it.
    #[inline]
    #[must_use]
    pub fn ring(&self, slot: usize) -> bool {
        let leaf = slot / 64;
        // SYNC(doorbell.leaf): pairs with the swap in `take`; what the core published before is
        // visible to the router that takes the bit.
        self.leaves[leaf]
            .0
            .fetch_or(1 << (slot % 64), order("doorbell.leaf", Ordering::SeqCst));
        // SYNC(doorbell.summary): pairs with `take` and `try_sleep`. An RMW, so that either it
        // sees the sleeping bit or the router's CAS to sleep sees this bit and fails.
        let old = self
            .summary
            .0
            .fetch_or(1 << leaf, order("doorbell.summary", Ordering::SeqCst));
        old & ASLEEP != 0
    }

    /// True when some bit is set.
    #[inline]
    pub fn is_rung(&self) -> bool {
        // SYNC(doorbell.peek): pairs with the RMWs in `ring`. SeqCst: the router's sole-lane pass
        // reads a tail and then this word, and must not see the tail without earlier rings.
        self.summary
            .0
            .load(order("doorbell.peek", Ordering::SeqCst))
            & !ASLEEP
            != 0
    }

    /// Takes all bits and reports each leaf's word: `sink(leaf, bits)`.
    #[inline]
    pub fn take(&self, mut sink: impl FnMut(usize, u64)) {
        if !self.is_rung() {
            return;
        }
        // SYNC(doorbell.take): pairs with the RMWs in `ring`. The summary is taken first: a bit
        // set in a leaf after our swap of it also sets the summary again.
        let mut summary = self
            .summary
            .0
            .fetch_and(ASLEEP, order("doorbell.take", Ordering::SeqCst))
            & !ASLEEP;
        while summary != 0 {
            let leaf = summary.trailing_zeros() as usize;
            summary &= summary - 1;
            let bits = self.leaves[leaf]
                .0
                .swap(0, order("doorbell.take_leaf", Ordering::SeqCst));
            sink(leaf, bits);
        }
    }

    /// Says that the router is about to sleep; false when something was rung meanwhile.
    #[must_use]
    pub fn try_sleep(&self) -> bool {
        // SYNC(doorbell.sleep): a CAS from "nothing rung": a ring either comes first and makes it
        // fail, or comes later and sees the bit.
        let old = self.summary.0.compare_exchange(
            0,
            ASLEEP,
            order("doorbell.sleep", Ordering::SeqCst),
            Ordering::Relaxed, // Relaxed: only the bit pattern decides, nothing is read through it
        );
        old.is_ok() || old == Err(ASLEEP)
    }

    /// Says that the router is awake.
    pub fn awake(&self) {
        // Relaxed: a ringer that still sees the bit only writes the eventfd once too often.
        self.summary.0.fetch_and(!ASLEEP, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn taken(bell: &Doorbell) -> Vec<usize> {
        let mut slots = Vec::new();
        bell.take(|leaf, bits| {
            slots.extend(
                (0..64)
                    .filter(|b| bits >> b & 1 == 1)
                    .map(|b| leaf * 64 + b),
            );
        });
        slots
    }

    #[test]
    fn rung_slots_are_taken_once() {
        let bell = Doorbell::new();
        for slot in [0, 63, 64, MAX_SLOTS - 1, 64] {
            assert!(!bell.ring(slot));
        }
        assert_eq!(taken(&bell), [0, 63, 64, MAX_SLOTS - 1]);
        assert!(taken(&bell).is_empty());
    }

    #[test]
    fn a_ring_before_sleep_refuses_it_and_a_ring_after_asks_for_a_notification() {
        let bell = Doorbell::new();
        assert!(!bell.ring(5));
        assert!(!bell.try_sleep());
        assert_eq!(taken(&bell), [5]);
        assert!(bell.try_sleep());
        assert!(bell.try_sleep(), "already asleep with nothing rung");
        assert!(bell.ring(5));
        assert!(bell.ring(6), "every ringer notifies until the router is up");
        assert!(!bell.try_sleep());
        bell.awake();
        assert!(!bell.ring(7));
        assert_eq!(taken(&bell), [5, 6, 7]);
    }
}
