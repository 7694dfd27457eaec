//! The doorbell: tells the router which lanes have news, and whether it must be woken.
//!
//! Each owner of slots has bells of its own, one bit for each core, in its own part of the region;
//! that the router sleeps it says in a word of its own. So nobody writes what somebody else's
//! wake-up depends on: a worker that overwrites its bells harms itself, and wakes the router for
//! nothing.
//!
//! A ringer sets its bit, *then* looks whether the router sleeps. The router says that it sleeps,
//! *then* looks at all bells, then sleeps. Whoever comes second sees the other.
//!
//! A look at all bells costs one load for each owner, on lines that change only when rung. A word
//! that gathered all bells would spare the router that, but it would be everybody's to write: if
//! one bit of it got lost, the order of messages would be lost with it, not only a wake-up.
//!
//! A ringer does not clear the router's word, it only notifies when it sees it: a ringer that is
//! stopped before its notification then takes nobody else's away. The price is a second `write`
//! from a sender that rings while the router is still waking up.
//!
//! In assist mode (see `assist`) the router is a role that its word gives: the master has it while it
//! is awake, and while it sleeps a ringer may take it. A helper gives the role back, *then* looks at all
//! bells, and takes it again if one is rung: as the master does when it goes to sleep.
//!
//! Who writes: a bell its owner, and the router, which clears it; the router [`Sleep`], and in assist
//! mode who takes the role.

use crate::sync::{AtomicU64, Ordering, order};

/// Cores of one owner that share a bell.
pub(crate) const CORES: usize = 64;

/// The bell of up to [`CORES`] cores of one owner. Alone on its cache lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Bell(AtomicU64);

/// Whether the router sleeps, and who else has its role. Alone on its cache lines.
///
/// ```text
///  0: the master is awake    1: asleep, the role is free    2 + slot: this core helps
/// !0: the last master has stopped, and left everything in order
/// ```
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Sleep(AtomicU64);

impl Bell {
    #[cfg(any(test, loom))]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Core number `core`: has news; true when the router sleeps and the caller must notify it.
    #[inline]
    #[must_use]
    pub fn ring(&self, core: usize, router: &Sleep) -> bool {
        // SYNC(doorbell.ring): pairs with `is_rung` and `take`; what the core published before is
        // visible to the router that sees the bit. SeqCst: before the look at `router`, see
        // `Sleep::try_sleep`; and before the send's return, see `ticket`.
        self.0.fetch_or(
            1 << (core % CORES),
            order("doorbell.ring", Ordering::SeqCst),
        );
        router.is_asleep()
    }

    /// The bits that are set.
    #[inline]
    pub fn rung(&self) -> u64 {
        // SYNC(doorbell.peek): pairs with the RMW in `ring`. SeqCst: the router's sole-lane pass
        // reads a tail and then the bells, and must not see the tail without earlier rings; and a
        // pass with a cut looks after its draw.
        self.0.load(order("doorbell.peek", Ordering::SeqCst))
    }

    /// Takes the bits that are set.
    #[inline]
    pub fn take(&self) -> u64 {
        if self.rung() == 0 {
            return 0;
        }
        // SYNC(doorbell.take): pairs with the RMW in `ring`; a bit set later is found later.
        self.0.swap(0, order("doorbell.take", Ordering::SeqCst))
    }
}

const AWAKE: u64 = 0;
const ASLEEP: u64 = 1;
const FIRST_HELPER: u64 = 2;
const STOPPED: u64 = !0;

/// What a new master finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The role is the master's, and its last holder has left everything in order.
    Given,
    /// The role is a master's: this one's, or that of one that died with it.
    Held,
    /// The core of this slot has it.
    Helped(usize),
}

impl Sleep {
    #[cfg(any(test, loom))]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    fn is_asleep(&self) -> bool {
        // SYNC(doorbell.asleep): pairs with the swap in `try_sleep`.
        self.0.load(order("doorbell.asleep", Ordering::SeqCst)) == ASLEEP
    }

    /// Router: says that it is about to sleep, then asks whether anything is rung; false when it
    /// is, and the router is awake.
    #[must_use]
    pub fn try_sleep(&self, is_rung: impl FnOnce() -> bool) -> bool {
        // SYNC(doorbell.sleep): SeqCst, like the loads in `rung` that follow and both accesses of
        // a ringer: either its look at this word sees the swap, or our look at its bell sees the
        // bit.
        self.0
            .swap(ASLEEP, order("doorbell.sleep", Ordering::SeqCst));
        // When somebody helps already, that is the one to look at what is rung.
        !(is_rung() && self.exchange(ASLEEP, AWAKE))
    }

    /// Core: takes the role, if it is free, so that the router is the caller's to run.
    #[must_use]
    pub fn assist(&self, slot: usize) -> bool {
        self.exchange(ASLEEP, FIRST_HELPER + slot as u64)
    }

    /// Helper: gives the role back, then asks whether anything is rung; false when it is, and the
    /// caller has the role again.
    #[must_use]
    pub fn give_back(&self, slot: usize, is_rung: impl FnOnce() -> bool) -> bool {
        self.leave();
        !(is_rung() && self.assist(slot))
    }

    /// Helper: gives the role back without a look. The master must be notified then.
    pub fn leave(&self) {
        // SYNC(doorbell.leave): Release: what this helper did to the router is the next one's. SeqCst:
        // before the look at the bells, as in `try_sleep`.
        self.0
            .swap(ASLEEP, order("doorbell.leave", Ordering::SeqCst));
    }

    /// Master: takes the role, unless a core has it.
    pub fn claim(&self) -> Claim {
        // SYNC(doorbell.claim): pairs with the swaps that give the role up.
        let seen = self.0.load(order("doorbell.claim", Ordering::SeqCst));
        match seen {
            AWAKE => Claim::Held,
            ASLEEP | STOPPED if self.exchange(seen, AWAKE) => Claim::Given,
            ASLEEP | STOPPED => self.claim(),
            helper => Claim::Helped((helper - FIRST_HELPER) as usize),
        }
    }

    /// Master: takes the role from the helper of this slot, which is dead; false when it had given it
    /// back before it died, and the role may be somebody else's.
    #[must_use]
    pub fn seize(&self, slot: usize) -> bool {
        self.exchange(FIRST_HELPER + slot as u64, AWAKE)
    }

    /// Master: stops, in order. Nobody can take the role but the next master.
    pub fn stop(&self) {
        // SYNC(doorbell.leave): as above.
        self.0
            .swap(STOPPED, order("doorbell.leave", Ordering::SeqCst));
    }

    fn exchange(&self, old: u64, new: u64) -> bool {
        // SYNC(doorbell.take_role): Acquire: what the last holder did to the router is the caller's.
        // SeqCst: a ringer whose bell is set already and who fails here leaves it to the holder, whose
        // look at the bells must find it.
        let success = order("doorbell.take_role", Ordering::SeqCst);
        self.0
            .compare_exchange(old, new, success, Ordering::Relaxed)
            .is_ok()
    }

    /// Router: is awake. Not in assist mode, see `claim`.
    pub fn awake(&self) {
        // Relaxed: a ringer that still sees the old value only writes the eventfd once too often.
        self.0.store(AWAKE, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rung_cores_are_taken_once() {
        let (bell, router) = (Bell::new(), Sleep::new());
        for core in [0, 63, 5, 63] {
            assert!(!bell.ring(core, &router));
        }
        assert_eq!(bell.take(), 1 << 63 | 1 << 5 | 1);
        assert_eq!((bell.rung(), bell.take()), (0, 0));
    }

    #[test]
    fn only_the_holder_loses_the_role_by_its_death() {
        let role = Sleep::new();
        assert!(role.try_sleep(|| false));
        assert!(role.assist(3));
        role.leave();
        assert!(role.assist(5) && !role.assist(3));
        assert!(!role.seize(3), "it gave the role back and died then");
        assert_eq!(role.claim(), Claim::Helped(5));
        assert!(role.seize(5));
        assert_eq!(role.claim(), Claim::Held);
    }

    #[test]
    fn a_ring_before_sleep_refuses_it_and_a_ring_after_asks_for_a_notification() {
        let (a, b, router) = (Bell::new(), Bell::new(), Sleep::new());
        let sleeps = || router.try_sleep(|| a.rung() | b.rung() != 0);
        assert!(!b.ring(5, &router));
        assert!(!sleeps());
        assert!(!a.ring(1, &router), "awake again");
        assert_eq!((a.take(), b.take()), (2, 32));
        assert!(sleeps());
        assert!(sleeps(), "already asleep with nothing rung");
        assert!(a.ring(5, &router));
        assert!(b.ring(6, &router), "every ringer notifies until it is up");
        assert!(!sleeps());
        router.awake();
        assert!(!b.ring(7, &router));
        assert_eq!((a.take(), b.take()), (1 << 5, 3 << 6));
    }
}
