//! The word by which a core publishes, and the bias of a lane that streams.
//!
//! # Bias
//! The swap that publishes waits until all that was just written has left the store buffer, which
//! makes it most of a send. It must be one, because a store could wipe out an armed bit set meanwhile.
//! So while a lane streams, the router biases it towards its sender: it says that it will not arm the
//! lane before it has revoked that, and the sender publishes by a plain store. To revoke it the router
//! takes its word back, then calls [`barrier::heavy`], then looks at the tail again and may arm. The
//! sender stores its tail, then looks whether the router's word still stands: either the router sees
//! that tail, or the sender sees that it does not, takes the swap again, and rings at once: its store
//! may have wiped out the bit.
//!
//! A send that has published by a store has returned when its tail may still be in the store buffer.
//! What the sender does next is behind it there, so whoever can tell that the send has returned finds
//! the tail in place.

use crate::barrier;
use crate::sync::{AtomicU64, Ordering, order};

/// The word by which a core publishes its records.
///
/// ```text
///  63                                       4    3 2     1        0
/// +------------------------------------------+------+---------+-------+
/// | tail / 16 (the low four bits are zero)   | zero | waiting | armed |
/// +------------------------------------------+------+---------+-------+
/// ```
/// * armed: the router found this lane empty and will not look at it again until its doorbell
///   rings. Set by the router's CAS, cleared by the core's publish.
/// * waiting: the core sleeps until its `event` word changes (lane full, or an answer awaited).
///   Set by the core, cleared by the router before it wakes the core.
///
/// The second word is what the router and the owner have agreed on: [`NO_BIAS`] of an owner whose
/// process does not answer to barriers, [`UNBIASED`], [`BIASED`], or [`EAGER`]: not biased, but whoever
/// rings may make it so. Written by both.
///
/// The third is where the owner has last ended a run early, see `lane`. Written by the owner.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct LaneWord(AtomicU64, AtomicU64, AtomicU64);

const ARMED: u64 = 1;
const WAITING: u64 = 2;
const FLAGS: u64 = 15;

const NO_BIAS: u64 = 0;
const UNBIASED: u64 = 1;
const BIASED: u64 = 2;
const EAGER: u64 = 3;

/// What the router read from a [`LaneWord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published(u64);

impl Published {
    /// The tail: bytes, monotonic.
    #[inline]
    pub fn tail(self) -> u64 {
        self.0 & !FLAGS
    }

    #[inline]
    pub fn is_waiting(self) -> bool {
        self.0 & WAITING != 0
    }
}

impl LaneWord {
    #[cfg(any(test, loom))]
    pub fn new() -> Self {
        Self(
            AtomicU64::new(ARMED),
            AtomicU64::new(UNBIASED),
            AtomicU64::new(0),
        )
    }

    /// Core: publishes everything below `tail`; true when the doorbell must be rung.
    #[inline]
    #[must_use]
    pub fn publish(&self, tail: u64) -> bool {
        // SYNC(lane.publish): pairs with `read`; publishes the records. A swap, not a store: it
        // must see the armed bit, and a store could overwrite one set meanwhile. SeqCst: ordered
        // after the ticket's draw and before the send's return, see `ticket`.
        self.0.swap(tail, order("lane.publish", Ordering::SeqCst)) & ARMED != 0
    }

    /// Core, if the lane was biased when it last looked: publishes everything below `tail`; false when
    /// the lane is no longer biased, and the doorbell must be rung.
    #[inline]
    #[must_use]
    pub fn publish_biased(&self, tail: u64) -> bool {
        // SYNC(lane.store): pairs with `read`; publishes the records. Release: whoever can tell that
        // the send has returned, by what this core does next, finds this store done. The processors
        // that we know have one order of stores for all observers (x86, ARMv8), so a later load of the
        // counter of tickets by such a one is behind it too, as `ticket` asks; the language has no
        // words for that.
        self.0.store(tail, order("lane.store", Ordering::Release));
        barrier::light();
        self.is_biased()
    }

    /// Core: its run ends at `tail`, before whatever it publishes next.
    pub fn cut_run(&self, tail: u64) {
        // Relaxed: published with the tail that follows.
        self.2.store(tail, Ordering::Relaxed);
    }

    /// Router: where a run has last been ended early.
    #[inline]
    pub fn run_cut(&self) -> u64 {
        // Relaxed: read after the tail (`read`), which was published behind it: no run reaches beyond it
        // without being seen to.
        self.2.load(Ordering::Relaxed)
    }

    /// Core that is about to ring: biases the lane, if it is eager; true then. Until the router has
    /// heard the bell it cannot arm the lane for good, and once it has, it sees this.
    pub fn take_bias(&self) -> bool {
        // Relaxed, twice: the bell orders the store, see above. The router does not take EAGER back.
        let may = self.1.load(Ordering::Relaxed) == EAGER;
        if may {
            self.1.store(BIASED, Ordering::Relaxed);
        }
        may
    }

    /// True while the router will not arm the lane.
    #[inline]
    pub fn is_biased(&self) -> bool {
        // Relaxed: pairs with `revoke` by the barriers on both sides. Nothing is read through it.
        self.1.load(Ordering::Relaxed) == BIASED
    }

    /// A new owner: whether its process answers to barriers.
    pub fn offer_bias(&self, answers: bool) {
        let offer = if answers { UNBIASED } else { NO_BIAS };
        // Relaxed: the router looks after it has heard the bell.
        self.1.store(offer, Ordering::Relaxed);
    }

    /// Router: says that it will not arm the lane, which is not armed; false when its owner could not
    /// hear that this has ended.
    pub fn bias(&self) -> bool {
        // Relaxed, twice: whoever reads an old word goes on with the swap.
        let can = self.1.load(Ordering::Relaxed) != NO_BIAS;
        if can {
            self.1.store(BIASED, Ordering::Relaxed);
        }
        can
    }

    /// Router: takes that back. The lane may be armed after the next [`barrier::heavy`]. If `eager`, the
    /// owner may bias it again when it rings.
    pub fn revoke(&self, eager: bool) {
        let to = if eager { EAGER } else { UNBIASED };
        // Relaxed: ordered by that barrier, see `publish_biased`.
        self.1.store(to, Ordering::Relaxed);
    }

    /// Router: what has been published.
    #[inline]
    pub fn read(&self) -> Published {
        // SYNC(lane.read): pairs with `publish`. SeqCst: ordered after the router's cut.
        Published(self.0.load(order("lane.read", Ordering::SeqCst)))
    }

    /// Router: arms the lane if nothing beyond `seen` has been published and nobody waits; true
    /// also when it is armed already, as the lane of an owner that has not published yet is.
    #[inline]
    #[must_use]
    pub fn arm(&self, seen: u64) -> bool {
        // SYNC(lane.arm): pairs with the swap in `publish`: one of the two sees the other. SeqCst
        // also orders it after our store of the head: a producer that then finds the lane full
        // and sets `waiting` re-reads the head after its RMW on this word.
        let old = self.0.compare_exchange(
            seen,
            seen | ARMED,
            order("lane.arm", Ordering::SeqCst),
            // Relaxed: the lane stays active and is read again, or it is armed, and whoever
            // publishes next finds that and rings.
            Ordering::Relaxed,
        );
        old.is_ok() || old == Err(seen | ARMED)
    }

    /// Core: asks to be woken when the head moves or an answer is there.
    pub fn set_waiting(&self) {
        // SYNC(lane.waiting): pairs with `arm` and `take_waiting`; the caller re-checks its
        // condition after this RMW and before it sleeps.
        self.0
            .fetch_or(WAITING, order("lane.waiting", Ordering::SeqCst));
    }

    /// Router: clears the waiting bit before waking the core; true when it was set.
    pub fn take_waiting(&self) -> bool {
        // SYNC(lane.waiting): as above; ordered after the store of the head or the answer.
        self.0
            .fetch_and(!WAITING, order("lane.take_waiting", Ordering::SeqCst))
            & WAITING
            != 0
    }

    /// A new owner of the slot, or the router after reaping: where the lane stands.
    pub fn tail(&self) -> u64 {
        self.read().tail()
    }

    /// Router, with no live producer: leaves the lane empty at `tail` and armed.
    pub fn reset(&self, tail: u64) {
        // Relaxed, twice: before the store that follows. A cut of the last owner's may lie ahead of what it
        // has published; it is no end of the next one's runs.
        self.1.store(NO_BIAS, Ordering::Relaxed);
        self.2.store(tail, Ordering::Relaxed);
        // SYNC(lane.reset): pairs with the next owner's Acquire of the slot word.
        self.0.store(tail | ARMED, Ordering::Release);
    }
}
