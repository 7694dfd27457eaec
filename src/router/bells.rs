//! The bells of all owners, as the router goes round them.

use crate::doorbell::{Bell, CORES};
use crate::memory::{Block, Memory};
use crate::region::Shared;
use crate::view::View;

/// One owner's bell, or 64 cores' share of it.
#[derive(Debug)]
struct Line {
    bell: Shared<Bell>,
    /// Slot of its bit 0.
    first: usize,
    /// Bits that the router listens to: those of cores that are not quarantined.
    heeded: u64,
}

/// All bells of the hub.
#[derive(Debug)]
pub(super) struct Bells {
    lines: Block<Line>,
    /// By slot: its line.
    by_slot: Block<u16>,
}

impl Bells {
    pub fn new(view: &View, memory: Memory) -> Self {
        let slots = 0..view.layout.slots;
        let is_first = |&slot: &usize| view.layout.core_of(slot) % CORES == 0;
        let mut firsts = slots.clone().filter(is_first);
        let lines = Block::new(memory, slots.clone().filter(is_first).count(), |_| {
            let first = firsts.next().expect("as many as were counted");
            Line {
                bell: view.bell(first),
                first,
                heeded: 0,
            }
        });
        let mut new = Self {
            by_slot: Block::new(memory, slots.len(), |slot| {
                (lines.partition_point(|line| line.first <= slot) - 1) as u16
            }),
            lines,
        };
        slots.for_each(|slot| new.heed(slot, true));
        new
    }

    /// Bytes that it takes of a pool, at most.
    pub fn footprint(slots: usize) -> usize {
        Block::<Line>::footprint(slots) + Block::<u16>::footprint(slots)
    }

    /// True when somebody heeded has rung.
    #[inline]
    pub fn is_rung(&self) -> bool {
        self.lines
            .iter()
            .any(|line| line.bell.rung() & line.heeded != 0)
    }

    /// How many words there are to look at.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Takes what is rung of word number `line`: the slot of bit 0, and the bits of those heeded.
    /// Bits that stand for no core are a worker's stray write: nobody's news.
    #[inline]
    pub fn take(&self, line: usize) -> Option<(usize, u64)> {
        let line = &self.lines[line];
        let bits = line.bell.take();
        (bits != 0).then_some((line.first, bits & line.heeded))
    }

    /// Whether the slot is listened to.
    pub fn heed(&mut self, slot: usize, yes: bool) {
        let line = &mut self.lines[usize::from(self.by_slot[slot])];
        let bit = 1 << (slot - line.first);
        if yes {
            line.heeded |= bit;
        } else {
            line.heeded &= !bit;
        }
    }
}
