//! The bells of all owners, as the router goes round them.

use crate::doorbell::{Bell, CORES};
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
    lines: Vec<Line>,
    /// By slot: its line.
    by_slot: Vec<u16>,
}

impl Bells {
    pub fn new(view: &View) -> Self {
        let (mut lines, mut by_slot) = (Vec::<Line>::new(), Vec::new());
        for slot in 0..view.layout.slots {
            let bit = view.layout.core_of(slot) % CORES;
            if bit == 0 {
                lines.push(Line {
                    bell: view.bell(slot),
                    first: slot,
                    heeded: 0,
                });
            }
            let line = lines.len() - 1;
            lines[line].heeded |= 1 << bit;
            by_slot.push(line as u16);
        }
        Self { lines, by_slot }
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
