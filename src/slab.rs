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

use std::collections::VecDeque;

use bitvec::prelude::{BitBox, Lsb0};

use crate::arena::{Extent, first_fit};
use crate::region::Shared;
use crate::sync::{AtomicU64, Ordering};

/// The return of a granule that a core which has gone had placed, while it is pinned.
pub(crate) const KEPT: u64 = u64::MAX;

/// What the router has said of the granules of one slab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returns {
    first: Shared<AtomicU64>,
    count: usize,
}

impl Returns {
    /// # Safety
    /// There are `count` words from `first` on.
    pub unsafe fn new(first: Shared<AtomicU64>, count: usize) -> Self {
        Self { first, count }
    }

    /// How many granules.
    pub fn len(self) -> usize {
        self.count
    }

    fn of(self, granule: usize) -> Shared<AtomicU64> {
        assert!(granule < self.count);
        // SAFETY: just checked.
        unsafe { self.first.nth(granule) }
    }

    pub fn load(self, granule: usize) -> u64 {
        // SYNC(slab.return): pairs with `store`: whoever has read the granule has done with it.
        self.of(granule).load(Ordering::Acquire)
    }

    /// Router: nobody refers to the granule, and the lane has been routed up to `position`.
    pub fn store(self, granule: usize, position: u64) {
        // SYNC(slab.return): Release: what receivers have read of it they have read before; the router
        // has seen that by their control words.
        self.of(granule).store(position, Ordering::Release);
    }

    /// Router, before the slot gets another owner: the granule is still being read.
    pub fn keep(self, granule: usize) {
        // Relaxed: ordered by the slot word, which is freed afterwards.
        self.of(granule).store(KEPT, Ordering::Relaxed);
    }
}

/// A piece that has been sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    piece: Extent,
    /// Where the record that refers to it ends in the lane.
    end: u64,
}

/// A core's own end of its slab.
#[derive(Debug)]
pub(crate) struct Slab {
    base: *mut u8,
    returns: Returns,
    /// By granule: not sent, or come back.
    free: BitBox<u64, Lsb0>,
    /// What has been sent and may still be out, oldest first. Has room for one piece of each granule.
    sent: VecDeque<Sent>,
    /// Where the lane was when the slot was taken; None once what the last owner has left is known.
    taken_at: Option<u64>,
}

// SAFETY: its pointers go to the region, to what only this core writes.
unsafe impl Send for Slab {}

impl Slab {
    /// The slab of a slot that has been taken, with its lane at `position`.
    ///
    /// # Safety
    /// `base` is writable for `returns.len()` granules, page-aligned, outlives the slab, and nobody else
    /// writes there. What is pinned of it has been marked as kept.
    pub unsafe fn new(base: *mut u8, returns: Returns, position: u64) -> Self {
        Self {
            base,
            returns,
            free: BitBox::from_boxed_slice(vec![!0; returns.len().div_ceil(64)].into()),
            sent: VecDeque::with_capacity(returns.len()),
            taken_at: Some(position),
        }
    }

    /// A slab that never has room.
    pub fn none(returns: Returns) -> Self {
        let none = Returns {
            count: 0,
            ..returns
        };
        // SAFETY: no granules.
        unsafe { Self::new(std::ptr::NonNull::dangling().as_ptr(), none, 0) }
    }

    /// Room for `bytes`, the caller's to write until it says that it has been sent; that nothing comes of
    /// it need not be said.
    pub fn find(&mut self, bytes: usize) -> Option<Extent> {
        if let Some(position) = self.taken_at.take() {
            self.open(position);
        }
        while let Some(&oldest) = self.sent.front() {
            if !self.is_back(oldest) {
                break;
            }
            self.sent.pop_front();
            self.set_free(oldest.piece, true);
        }
        self.fit(bytes).or_else(|| {
            self.collect();
            self.fit(bytes)
        })
    }

    /// Where a piece is.
    pub fn at(&self, piece: Extent) -> *mut u8 {
        self.base.wrapping_add(piece.offset())
    }

    /// The piece goes with the record that ends at `end` in the lane.
    pub fn sent(&mut self, piece: Extent, end: u64) {
        self.set_free(piece, false);
        self.sent.push_back(Sent { piece, end });
    }

    fn fit(&self, bytes: usize) -> Option<Extent> {
        first_fit(&self.free[..self.returns.len()], bytes)
    }

    fn set_free(&mut self, piece: Extent, free: bool) {
        self.free[piece.range()].fill(free);
    }

    fn is_back(&self, sent: Sent) -> bool {
        let position = self.returns.load(sent.piece.first as usize);
        position != KEPT && position.wrapping_sub(sent.end) as i64 >= 0
    }

    /// Everything that has come back, in whatever order.
    #[cold]
    fn collect(&mut self) {
        for _ in 0..self.sent.len() {
            let Some(sent) = self.sent.pop_front() else {
                break;
            };
            if self.is_back(sent) {
                self.set_free(sent.piece, true);
            } else {
                self.sent.push_back(sent);
            }
        }
    }

    /// What the last owner has placed is out until it has come back.
    #[cold]
    fn open(&mut self, position: u64) {
        for granule in 0..self.returns.len() {
            if self.returns.load(granule) == KEPT {
                let piece = Extent {
                    first: granule as u32,
                    count: 1,
                };
                self.sent(piece, position);
            }
        }
    }
}
