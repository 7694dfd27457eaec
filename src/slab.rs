//! Slabs: memory of each core for large messages, which receivers read where the sender wrote them.
//!
//! A message over 4 KiB is written into its sender's slab, once; what goes through the lane is a record
//! of 32 bytes that says where ([`kind::PLACED`]). The router checks it and passes it on to the queues,
//! with a header of its own, and pins the granules as it does for what lies in the arena. Nobody copies
//! the body, however many receive it.
//!
//! The owner of a slab gives out its granules, first fit from the start: what has come back is used again
//! while it is in the cache. Whether a piece has *come back* it learns from the router, which has a word
//! for each granule, its *return*:
//!
//! ```text
//!  piece sent in a record that ends at lane position 4096      return of its first granule
//!  +--------+--------+--------+                                 < 4096, or KEPT: still out
//!  | granule| granule| granule|                                 >= 4096: come back
//!  +--------+--------+--------+
//! ```
//! The router stores there how far it has routed the lane, and committed that, whenever it finds the
//! granule without a pin. So a return never says anything of a record that has not been routed yet, and
//! may be stored again at any time: by a successor, too, which reads off the queues what is pinned.
//!
//! When a core has gone, what it has placed may still be read. Such granules the router marks [`KEPT`]
//! before it frees the slot, until they have come back; the slot's next owner starts with the others.
//!
//! When there is no room, a message goes through lane and arena like any other, and is copied once.
//!
//! What a receiver reads here the sender can still write: one that misbehaves can tear a message that it
//! has sent, and harm nobody's memory by it. Headers come from the router. Who writes: the core its own
//! slab; the router the returns.
//!
//! [`kind::PLACED`]: crate::record::kind::PLACED

#[cfg(not(loom))]
mod owner;

#[cfg(not(loom))]
pub(crate) use owner::{Returns, Slab};

use crate::sync::{AtomicU64, Ordering, order};

/// What the router has said of one granule: a lane position up to which nobody refers to it any more, or
/// [`KEPT`].
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Return(AtomicU64);

/// How far a slab has ever been used, granules: of what lies beyond, nothing need be said or asked.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Reach(AtomicU64);

impl Reach {
    /// It is at least that much, if it is more than before.
    #[inline]
    pub fn raise(&self, granules: usize) {
        // Relaxed, twice: the router's own, but for a successor, which sees what comes before a commit,
        // and the slot's next owner, which sees what comes before the slot was freed.
        if granules as u64 > self.0.load(Ordering::Relaxed) {
            self.0.store(granules as u64, Ordering::Relaxed);
        }
    }

    /// At most `granules`.
    pub fn load(&self, granules: usize) -> usize {
        // Relaxed: as above.
        let reach = self.0.load(Ordering::Relaxed);
        usize::try_from(reach).map_or(granules, |reach| reach.min(granules))
    }
}

/// A core that has gone had placed it, and it is still pinned. No position: those are multiples of 16.
const KEPT: u64 = u64::MAX;

impl Return {
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn load(&self) -> u64 {
        // SYNC(slab.return): pairs with `store`: whoever has read the granule has done with it.
        self.0.load(order("slab.look", Ordering::Acquire))
    }

    /// Owner: true when what it has sent in a record that ends at `end` of its lane has come back.
    pub fn is_back(&self, end: u64) -> bool {
        let position = self.load();
        position != KEPT && position.wrapping_sub(end) as i64 >= 0
    }

    /// Owner: true when it is still out because of a predecessor.
    pub fn is_kept(&self) -> bool {
        self.load() == KEPT
    }

    /// Router: nobody refers to the granule, and the lane has been routed up to `position`.
    pub fn store(&self, position: u64) {
        // SYNC(slab.return): Release: what receivers have read of it they have read before; the router
        // has seen that by their control words.
        self.0
            .store(position, order("slab.return", Ordering::Release));
    }

    /// Router, before the slot gets another owner: the granule is still being read.
    pub fn keep(&self) {
        // Relaxed: ordered by the slot word, which is freed afterwards.
        self.0.store(KEPT, Ordering::Relaxed);
    }
}
