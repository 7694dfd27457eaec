//! What senders have placed in their slabs and the router has routed, until it has come back; see
//! [`crate::slab`].

use super::{Router, SlotSet, Standing};
use crate::arena::{Arena, GRANULE, Span};
use crate::layout::Layout;
use crate::memory::{Block, Memory};
use crate::record::Placed;

/// By slot: the first granules of the pieces that are out.
#[derive(Debug)]
pub(super) struct Lent {
    bits: Block<u64>,
    /// 64-bit words of a slot.
    words: usize,
    /// Granules of a slot.
    granules: usize,
    /// Granules of the arena, which come before those of the slabs.
    before: usize,
    /// Slots of which something is out.
    slots: SlotSet,
}

impl Lent {
    pub fn new(layout: &Layout, memory: Memory) -> Self {
        let granules = layout.slab_len / GRANULE;
        let words = granules.div_ceil(64);
        Self {
            bits: Block::zeroed(memory, layout.slots * words),
            words,
            granules,
            before: layout.arena_len / GRANULE,
            slots: SlotSet::new(),
        }
    }

    /// Bytes that it takes of a pool, at most.
    pub fn footprint(layout: &Layout) -> usize {
        Block::<u64>::footprint(layout.slots * (layout.slab_len / GRANULE).div_ceil(64))
    }

    /// True when something of the slot's slab is out.
    #[inline]
    pub fn has(&self, slot: usize) -> bool {
        self.slots.has(slot)
    }

    /// What the owner of `slot` has placed, from the arena's start; None if that is not in its slab.
    pub fn span(&self, slot: usize, placed: Placed) -> Option<Span> {
        let (span, bytes) = (placed.span(), self.granules * GRANULE);
        let is_inside = span.offset < bytes && span.len <= bytes - span.offset;
        (is_inside && span.offset % GRANULE == 0).then(|| Span {
            offset: (self.before + slot * self.granules) * GRANULE + span.offset,
            len: span.len,
        })
    }

    /// What begins at `granule` of the slot's slab is out.
    pub fn insert(&mut self, slot: usize, granule: usize) {
        self.bits[slot * self.words + granule / 64] |= 1 << (granule % 64);
        self.slots.insert(slot);
    }

    fn is_pinned(&self, slot: usize, granule: usize, arena: &Arena) -> bool {
        arena.is_pinned(self.before + slot * self.granules + granule)
    }

    /// Calls `each` with what of the slot is out and no longer pinned, and forgets it.
    pub fn take_back(&mut self, slot: usize, arena: &Arena, mut each: impl FnMut(usize)) {
        let mut is_left = false;
        for word in 0..self.words {
            let mut bits = self.bits[slot * self.words + word];
            while bits != 0 {
                let granule = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if self.is_pinned(slot, granule, arena) {
                    is_left = true;
                } else {
                    self.bits[slot * self.words + word] &= !(1 << (granule % 64));
                    each(granule);
                }
            }
        }
        if !is_left {
            self.slots.remove(slot);
        }
    }
}

impl Router {
    /// Tells the owner of `slot` what of its slab it can use again: of what has been routed, and that is
    /// committed, what nobody refers to any more.
    pub(super) fn give_slab_back(&mut self, slot: usize) {
        let (returns, position) = (self.view.returns(slot), self.lanes[slot].recorded);
        self.lent.take_back(slot, &self.arena, |granule| {
            returns.of(granule).store(position)
        });
    }

    /// The slot is about to be freed: what of its slab is still referred to is not the next owner's.
    pub(super) fn keep_slab(&mut self, slot: usize) {
        if self.lent.has(slot) {
            self.give_slab_back(slot);
            self.look_at_slab(slot, true);
        }
    }

    /// After a predecessor, whose notes are lost. It may have been about to free the slot.
    pub(super) fn adopt_slab(&mut self, slot: usize) {
        self.look_at_slab(slot, self.lanes[slot].standing == Standing::Free);
    }

    /// What of a slab is pinned is out, and is not the next owner's if the slot is `freed`; all else that
    /// was ever used has come back.
    fn look_at_slab(&mut self, slot: usize, freed: bool) {
        let (returns, position) = (self.view.returns(slot), self.lanes[slot].recorded);
        for granule in returns.used() {
            if !self.lent.is_pinned(slot, granule, &self.arena) {
                returns.of(granule).store(position);
                continue;
            }
            self.lent.insert(slot, granule);
            if freed {
                returns.of(granule).keep();
            }
        }
    }
}
