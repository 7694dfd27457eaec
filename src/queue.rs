//! Queues: one double buffer per core, between the router and the core.
//!
//! The router appends to the back buffer and publishes the new tail; the core reads the front
//! buffer in place, and when it is drained swaps the two (*flips*) and so gets everything that
//! has arrived meanwhile. One control word holds the whole state, so every race is decided by one
//! compare-and-swap:
//!
//! * the router publishes, the core flips: whoever comes second sees the other. A router that
//!   finds the buffers flipped moves its unpublished bytes to the other buffer.
//! * the core finds the back buffer empty and arms, the router publishes: either the core's CAS
//!   fails and it flips instead, or the router's CAS sees the armed bit and notifies. There is no
//!   third case, so no wake-up is lost.
//! * the core *dozes*: it sleeps in `recv_timeout`, on the word itself as a futex, and says so by one more
//!   bit, which is set and cleared with the armed bit. Then that is how it is notified.
//!
//! Invariants: the core touches only the front, the router only the back beyond the published
//! tail; a record is whole below the tail. Who writes: the router the buffers; both the word.

#[cfg(not(loom))]
mod reader;
#[cfg(not(loom))]
mod writer;

#[cfg(not(loom))]
pub(crate) use reader::{Front, Place, QueueReader, Raw, Received};
#[cfg(not(loom))]
pub(crate) use writer::{Appended, OVERHEAD, Publication, QueueWriter, Run};

use crate::sync::{AtomicU64, Ordering, order};

/// The control word of a queue, alone on its cache lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct ControlWord(AtomicU64);

/// A value of the control word.
///
/// ```text
///  63                36 35                  8 7     4    3       2      1       0
/// +--------------------+---------------------+-------+--------+------+-------+-------+
/// | publication        | tail of back / 16   | zero  | dozing | full | armed | index |
/// +--------------------+---------------------+-------+--------+------+-------+-------+
/// ```
/// | set by | change |
/// |---|---|
/// | router | publication is counted, tail grows, armed and dozing are cleared (and the core notified), full is set |
/// | core, flip | index toggles, tail, armed, dozing and full become zero |
/// | core, arm | armed is set; only while tail is zero |
/// | core, doze | dozing is set; only while armed, and tail is zero |
/// | core, rise | dozing becomes zero |
///
/// `index` is the back buffer. `full` asks the core to ring its doorbell when it flips.
/// `publication` counts, modulo 2^28, how often the router has changed the word; the core leaves
/// it as it is. It tells a successor whether the last publication that the ledger knows of was
/// made: it is that one, or the one before, or (where the router has discarded unread messages)
/// the one after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control(u64);

const INDEX: u64 = 1;
const ARMED: u64 = 2;
const FULL: u64 = 4;
const DOZING: u64 = 8;
const TAIL_SHIFT: u32 = 8;
const TAIL_MASK: u64 = (1 << 28) - 1;
const PUBLICATION_SHIFT: u32 = 36;
const PUBLICATION_MASK: u64 = !0 << PUBLICATION_SHIFT;

/// Most bytes a buffer can have: what the tail field can say.
pub(crate) const MAX_BUFFER: usize = (TAIL_MASK as usize) * 16;

impl Control {
    /// The state after attach: back buffer 0, nothing there, not armed.
    pub const EMPTY: Self = Self(0);

    /// True when the router has left it so for a new owner: nothing there, nothing asked for.
    pub fn is_fresh(self) -> bool {
        self.0 & !PUBLICATION_MASK == 0
    }

    /// Which buffer is the back.
    #[inline]
    pub fn index(self) -> usize {
        (self.0 & INDEX) as usize
    }

    /// Published bytes in the back buffer.
    #[inline]
    pub fn tail(self) -> usize {
        (self.0 >> TAIL_SHIFT & TAIL_MASK) as usize * 16
    }

    #[inline]
    pub fn is_armed(self) -> bool {
        self.0 & ARMED != 0
    }

    #[inline]
    pub fn is_full(self) -> bool {
        self.0 & FULL != 0
    }

    /// True when an armed core sleeps on this word.
    #[inline]
    pub fn is_dozing(self) -> bool {
        self.0 & DOZING != 0
    }

    /// What the futex compares: the low half, in which each notification is seen.
    pub fn low(self) -> u32 {
        self.0 as u32
    }

    /// The router's next value: the same back buffer with `tail` bytes (a multiple of 16).
    #[inline]
    #[must_use]
    pub fn published(self, tail: usize, full: bool, keep_armed: bool) -> Self {
        let armed = if keep_armed {
            self.0 & (ARMED | DOZING)
        } else {
            0
        };
        let full = if full { FULL } else { 0 };
        let same = self.0 & (INDEX | PUBLICATION_MASK);
        Self(same | (tail as u64 / 16) << TAIL_SHIFT | full | armed)
    }

    /// The same with the low bits of `publication`.
    #[inline]
    #[must_use]
    pub fn numbered(self, publication: u64) -> Self {
        Self(self.0 & !PUBLICATION_MASK | publication << PUBLICATION_SHIFT)
    }

    /// True when the low bits of `publication` are the word's.
    pub fn carries(self, publication: u64) -> bool {
        self == self.numbered(publication)
    }

    #[inline]
    fn flipped(self) -> Self {
        Self(self.0 & (INDEX | PUBLICATION_MASK) ^ INDEX)
    }
}

/// What the core's look at an exhausted front came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flip {
    /// The old back buffer is now the front; the value before the flip.
    Flipped(Control),
    /// Nothing there; the queue is armed: the next publish notifies.
    Armed,
}

impl ControlWord {
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(Control::EMPTY.0))
    }

    /// Router: replaces `guess` by `next`, or tells what is there.
    #[inline]
    pub fn publish(&self, guess: Control, next: Control) -> Result<(), Control> {
        // SYNC(queue.publish): Release pairs with the core's Acquire in `flip_or_arm`; publishes
        // the records below the tail. On failure, Acquire pairs with the Release of the core's
        // flip: its reads of the buffer it gave back, and of what that refers to in the arena, are
        // over before we write there.
        match self.0.compare_exchange(
            guess.0,
            next.0,
            order("queue.publish", Ordering::AcqRel),
            order("queue.publish_failed", Ordering::Acquire),
        ) {
            Ok(_) => Ok(()),
            Err(actual) => Err(Control(actual)),
        }
    }

    /// Core: the front is drained: takes what has arrived, or arms.
    #[inline]
    pub fn flip_or_arm(&self) -> Flip {
        // Relaxed: a first guess; the CAS below validates it.
        let mut seen = Control(self.0.load(Ordering::Relaxed));
        loop {
            if seen.tail() == 0 && seen.is_armed() {
                return Flip::Armed;
            }
            let next = if seen.tail() > 0 {
                seen.flipped()
            } else {
                Control(seen.0 | ARMED)
            };
            // SYNC(queue.flip): Acquire pairs with the router's publish: the records below the
            // tail are there. Release pairs with the router's failed CAS: we no longer read the
            // buffer that becomes the back. A CAS, never a store: a publish between our look and
            // the arming must make it fail, or its wake-up would be lost.
            match self.0.compare_exchange(
                seen.0,
                next.0,
                order("queue.flip", Ordering::AcqRel),
                Ordering::Relaxed, // Relaxed: the next turn's CAS validates it
            ) {
                Ok(_) if seen.tail() > 0 => return Flip::Flipped(seen),
                Ok(_) => return Flip::Armed,
                Err(actual) => seen = Control(actual),
            }
        }
    }

    /// Core: says that it is about to sleep on the word, while that is as returned. None: there is
    /// something to take.
    pub fn doze(&self) -> Option<Control> {
        // Relaxed: a first guess; the CAS below validates it.
        let seen = Control(self.0.load(Ordering::Relaxed));
        if !seen.is_armed() || seen.tail() > 0 {
            return None;
        }
        let next = Control(seen.0 | DOZING);
        // SYNC(queue.doze): decides who comes first, this or the publication that clears the armed bit: a
        // store would set the bit for a router that has notified already. Nothing is read through it.
        let dozes = self
            .0
            .compare_exchange(
                seen.0,
                next.0,
                order("queue.doze", Ordering::Relaxed),
                Ordering::Relaxed,
            )
            .is_ok();
        dozes.then_some(next)
    }

    /// Core: no longer sleeps on the word; true when nobody has notified it meanwhile.
    pub fn rise(&self) -> bool {
        // Relaxed: the router's CAS finds it or not; in both cases the core looks at the queue next.
        self.0.fetch_and(!DOZING, Ordering::Relaxed) & DOZING != 0
    }

    /// The half of the word that a futex can be.
    #[cfg(not(loom))]
    pub fn futex(&self) -> *mut u32 {
        // The low half of a little-endian word comes first.
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Either side: the current value.
    #[inline]
    pub fn load(&self) -> Control {
        // SYNC(queue.load): Acquire for the router, as in `publish` on failure: the core has done
        // with what it gave back, and with what that refers to in the arena.
        Control(self.0.load(order("queue.load", Ordering::Acquire)))
    }

    /// Router, with no live core: empties the queue.
    pub fn reset(&self) {
        // SYNC(queue.reset): pairs with the next owner's Acquire of the slot word.
        self.0.store(Control::EMPTY.0, Ordering::Release);
    }
}
