//! The owner's end of a slab, and how the router's words about it are reached.

use std::collections::VecDeque;

use bitvec::prelude::{BitBox, Lsb0};

use super::{Reach, Return};
use crate::arena::{Extent, GRANULE, first_fit};
use crate::region::Shared;

/// What the router has said of the granules of one slab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returns {
    reach: Shared<Reach>,
    first: Shared<Return>,
    count: usize,
}

impl Returns {
    /// # Safety
    /// There are `count` of them from `first` on.
    pub unsafe fn new(reach: Shared<Reach>, first: Shared<Return>, count: usize) -> Self {
        Self {
            reach,
            first,
            count,
        }
    }

    /// Bytes that they take in the region, with what is in front of them.
    pub const fn bytes(granules: usize) -> usize {
        size_of::<Reach>() + granules * size_of::<Return>()
    }

    /// Router: has found something placed up to granule `end`.
    #[inline]
    pub fn reaches(self, end: usize) {
        self.reach.raise(end);
    }

    /// Granules that have ever been used.
    pub fn used(self) -> std::ops::Range<usize> {
        0..self.reach.load(self.count)
    }

    /// How many granules.
    pub fn len(self) -> usize {
        self.count
    }

    /// That of one granule.
    pub fn of(self, granule: usize) -> Shared<Return> {
        assert!(granule < self.count);
        // SAFETY: just checked.
        unsafe { self.first.nth(granule) }
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

    /// True when there is room for so much once all has come back.
    pub fn may_hold(&self, bytes: usize) -> bool {
        bytes <= self.returns.len() * GRANULE
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
        self.returns.of(sent.piece.first as usize).is_back(sent.end)
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
        for granule in self.returns.used() {
            if self.returns.of(granule).is_kept() {
                let piece = Extent {
                    first: granule as u32,
                    count: 1,
                };
                self.sent(piece, position);
            }
        }
    }
}
