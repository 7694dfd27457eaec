//! The arena: memory of the router's that all cores can read, for what goes to many queues.
//!
//! A run of messages, or a large one, is written here once; each subscribed queue then gets a
//! 16-byte reference instead of a copy. So the cost of fan-out does not grow with what is sent, and
//! sixteen receivers read the same cache lines instead of sixteen copies that fall out of the cache.
//!
//! The unit is the *granule*. A queue *pins* the granules that its buffers refer to, and unpins them
//! when the core shows by its control word that it has done with the buffer: it has flipped, or it
//! has armed, or its slot has been cleared. No receiver counts anything, so none can die between
//! counting and reading. A granule without pins is free. First fit from the start: what was just
//! given back is used again, while it is in the cache.
//!
//! Behind it lie the slabs of the cores (`slab`): what a sender has written into its own can be referred
//! to and pinned just so, only that the sender, and not the router, uses it again.
//!
//! Invariant: bytes of a granule are written only while nobody but their writer has pinned them, or
//! beyond all that queues refer to. Who writes: the router, each core its slab. Who reads: all cores. The
//! pins are in the router's own memory; a successor reads them off the queues (`queue::writer::resume`).

use bitvec::prelude::{BitSlice, Lsb0};

use crate::memory::{Block, Memory};

/// Bytes of a granule.
pub(crate) const GRANULE: usize = 4096;

/// Claims that find nothing before all queues are asked again whether they have done with theirs.
const PATIENCE: u32 = 64;

/// Granules, one behind the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub first: u32,
    pub count: u32,
}

/// A place in the arena: what a queue refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Bytes from the arena's start, a multiple of 16.
    pub offset: usize,
    /// Bytes, not zero.
    pub len: usize,
}

impl Span {
    /// The granules it touches.
    pub fn extent(self) -> Extent {
        let first = self.offset / GRANULE;
        let end = (self.offset + self.len).div_ceil(GRANULE);
        Extent {
            first: first as u32,
            count: (end - first) as u32,
        }
    }
}

impl Extent {
    pub fn end(self) -> u32 {
        self.first + self.count
    }

    /// Bytes from the arena's start.
    pub fn offset(self) -> usize {
        self.first as usize * GRANULE
    }

    pub fn bytes(self) -> usize {
        self.count as usize * GRANULE
    }

    pub fn range(self) -> std::ops::Range<usize> {
        self.first as usize..self.end() as usize
    }
}

/// The router's private state of the arena.
#[derive(Debug)]
pub(crate) struct Arena {
    base: *mut u8,
    /// Granules of its own.
    granules: usize,
    /// By granule, the slabs' included: queue buffers that refer to it, and claims.
    pins: Block<u32>,
    /// By granule of its own: nobody has pinned it. The last word may have bits of no granule.
    free: Block<u64>,
    /// Claims to come that are refused without asking the queues.
    refusals: u32,
}

impl Arena {
    /// An arena of `bytes` bytes, with `slabs` bytes of slabs behind it.
    ///
    /// # Safety
    /// `base` is writable for `bytes` bytes, 16-byte aligned and outlives the arena; no other process
    /// writes there.
    pub unsafe fn new(base: *mut u8, bytes: usize, slabs: usize, memory: Memory) -> Self {
        let granules = bytes / GRANULE;
        Self {
            base,
            granules,
            pins: Block::zeroed(memory, granules + slabs / GRANULE),
            free: Block::new(memory, granules.div_ceil(64), |_| !0),
            refusals: 0,
        }
    }

    /// Bytes that its state takes of a pool, at most.
    pub fn footprint(bytes: usize, slabs: usize) -> usize {
        let granules = bytes / GRANULE;
        let all = granules + slabs / GRANULE;
        Block::<u32>::footprint(all) + Block::<u64>::footprint(granules.div_ceil(64))
    }

    fn free_bits(&self) -> &BitSlice<u64, Lsb0> {
        &BitSlice::from_slice(&self.free)[..self.granules]
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.granules * GRANULE
    }

    /// Bytes, the slabs' included.
    fn reach(&self) -> usize {
        self.pins.len() * GRANULE
    }

    /// Where `offset` is.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len());
        // SAFETY: within the arena, or one past its end.
        unsafe { self.base.add(offset) }
    }

    /// Claims room for `bytes`: the caller's to write, and pinned once, until it unpins it.
    pub fn claim(&mut self, bytes: usize) -> Option<Extent> {
        let extent = first_fit(self.free_bits(), bytes)?;
        self.pin(extent);
        Some(extent)
    }

    /// After a claim was refused: true when it is time to ask all queues what they have done with.
    pub fn is_worth_asking(&mut self) -> bool {
        self.refusals = self.refusals.checked_sub(1).unwrap_or(PATIENCE);
        self.refusals == PATIENCE
    }

    pub fn pin(&mut self, extent: Extent) {
        for granule in extent.range() {
            self.pins[granule] += 1;
            if self.pins[granule] == 1 && granule < self.granules {
                self.free[granule / 64] &= !(1 << (granule % 64));
            }
        }
    }

    pub fn unpin(&mut self, extent: Extent) {
        for granule in extent.range() {
            self.pins[granule] -= 1;
            if self.pins[granule] == 0 && granule < self.granules {
                self.free[granule / 64] |= 1 << (granule % 64);
            }
        }
    }

    /// True while something refers to the granule.
    pub fn is_pinned(&self, granule: usize) -> bool {
        self.pins[granule] > 0
    }

    /// True when the span lies in the arena or a slab: for what was read from the region.
    pub fn contains(&self, span: Span) -> bool {
        let end = span.offset.checked_add(span.len);
        span.len > 0 && span.offset % 16 == 0 && end.is_some_and(|end| end <= self.reach())
    }

    /// Granules that are pinned.
    #[cfg(test)]
    pub fn pinned(&self) -> usize {
        self.free_bits().count_zeros()
    }
}

/// The first free granules, side by side, that have room for `bytes`.
pub(crate) fn first_fit(free: &BitSlice<u64, Lsb0>, bytes: usize) -> Option<Extent> {
    let count = bytes.div_ceil(GRANULE);
    let mut from = 0;
    loop {
        let first = from + free.get(from..)?.first_one()?;
        let run = free[first..].first_zero();
        let end = run.map_or(free.len(), |run| first + run);
        if end - first >= count {
            return Some(Extent {
                first: first as u32,
                count: count as u32,
            });
        }
        from = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arena(granules: usize) -> Arena {
        let bytes = vec![0u128; granules * GRANULE / 16].leak();
        // SAFETY: leaked, and of just this size.
        unsafe {
            Arena::new(
                bytes.as_mut_ptr().cast(),
                granules * GRANULE,
                0,
                Memory::Own,
            )
        }
    }

    #[test]
    fn what_was_given_back_last_is_used_first() {
        let mut arena = arena(8);
        let claims: Vec<Extent> = (0..4).filter_map(|_| arena.claim(2 * GRANULE)).collect();
        assert_eq!((claims.len(), arena.claim(1)), (4, None));
        arena.unpin(claims[1]);
        assert_eq!(arena.claim(2 * GRANULE + 1), None, "not in one piece");
        assert_eq!(arena.claim(GRANULE + 1), Some(claims[1]));
    }

    #[test]
    fn a_granule_is_free_when_the_last_pin_is_gone() {
        let mut arena = arena(4);
        let extent = arena.claim(3 * GRANULE).expect("room");
        let part = Span {
            offset: GRANULE + 16,
            len: 64,
        };
        arena.pin(part.extent());
        arena.unpin(extent);
        assert_eq!(arena.pinned(), 1);
        arena.unpin(part.extent());
        assert_eq!(arena.pinned(), 0);
    }

    #[test]
    fn queues_are_asked_once_in_a_while() {
        let mut arena = arena(1);
        let asked = (0..10 * PATIENCE).filter(|_| arena.is_worth_asking());
        assert_eq!(asked.count(), 10, "about one in {PATIENCE}");
    }

    proptest! {
        #[test]
        fn claims_never_overlap(ops in proptest::collection::vec((1usize..20_000, any::<u8>()), 1..200)) {
            let mut arena = arena(32);
            let mut held: Vec<Extent> = Vec::new();
            for (bytes, which) in ops {
                if which % 3 == 0 && !held.is_empty() {
                    arena.unpin(held.swap_remove(which as usize % held.len()));
                } else if let Some(new) = arena.claim(bytes) {
                    prop_assert!(new.bytes() >= bytes && new.end() <= 32);
                    prop_assert!(held.iter().all(|old| old.end() <= new.first || new.end() <= old.first));
                    held.push(new);
                }
                let sum: u32 = held.iter().map(|extent| extent.count).sum();
                prop_assert_eq!(arena.pinned(), sum as usize);
            }
        }
    }
}
