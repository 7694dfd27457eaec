//! Subscriptions: one row of slot bits per channel, and per slot the channels it is in.
//!
//! Rows lie in the region, written by the router only, readable by all: they are the truth. The
//! router's private index answers the opposite question (which channels is this slot in?), so
//! that `leave_all` and reaping cost what the slot has joined.

use bitvec::prelude::{BitSlice, Lsb0};

use crate::memory::{Block, Memory};
use crate::region::Shared;
use crate::sync::{AtomicU64, Ordering};

/// Rows of bits, one row per channel, one bit per slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    base: Shared<AtomicU64>,
    /// 64-bit words per row.
    words: usize,
    channels: usize,
}

impl Rows {
    /// # Safety
    /// The layout has `channels` rows of `words` words at `base`.
    pub unsafe fn new(base: Shared<AtomicU64>, words: usize, channels: usize) -> Self {
        Self {
            base,
            words,
            channels,
        }
    }

    /// The words of one row.
    #[inline]
    pub fn row(&self, channel: u32) -> &[AtomicU64] {
        assert!((channel as usize) < self.channels, "checked by the caller");
        // SAFETY: channel < channels, so the row lies in the region; its words are atomics.
        unsafe {
            let first = self.base.nth(channel as usize * self.words).get();
            std::slice::from_raw_parts(first, self.words)
        }
    }

    /// Sets or clears a bit; true when that changed it.
    pub fn put(&self, channel: u32, slot: usize, on: bool) -> bool {
        let word = &self.row(channel)[slot / 64];
        let bit = 1 << (slot % 64);
        // Relaxed: the router is the only writer; readers elsewhere take a racy snapshot.
        let old = word.load(Ordering::Relaxed);
        let new = if on { old | bit } else { old & !bit };
        word.store(new, Ordering::Relaxed);
        old != new
    }

    pub fn has(&self, channel: u32, slot: usize) -> bool {
        // Relaxed: as in `put`.
        self.row(channel)[slot / 64].load(Ordering::Relaxed) >> (slot % 64) & 1 == 1
    }

    pub fn is_empty(&self, channel: u32) -> bool {
        // Relaxed: as in `put`.
        self.row(channel)
            .iter()
            .all(|w| w.load(Ordering::Relaxed) == 0)
    }

    /// How many slots are in the row.
    #[inline]
    pub fn count(&self, channel: u32) -> usize {
        // Relaxed: as in `put`.
        let ones = |word: &AtomicU64| word.load(Ordering::Relaxed).count_ones() as usize;
        self.row(channel).iter().map(ones).sum()
    }

    /// Calls `each` with every slot in the row.
    #[inline]
    pub fn for_each(&self, channel: u32, mut each: impl FnMut(usize)) {
        for (i, word) in self.row(channel).iter().enumerate() {
            // Relaxed: as in `put`. A snapshot of the word, so that `each` may change the row.
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                each(i * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

/// A set of channel indices that is cheap to walk when sparse: a bit per channel, and a bit per
/// 64 of those. Untouched parts cost no memory.
#[derive(Debug)]
struct ChannelSet {
    leaves: Block<u64>,
    /// Bit `i`: leaf `i` is not zero.
    summary: Block<u64>,
}

impl ChannelSet {
    fn new(channels: usize, memory: Memory) -> Self {
        let leaves = channels.div_ceil(64);
        Self {
            leaves: Block::zeroed(memory, leaves),
            summary: Block::zeroed(memory, leaves.div_ceil(64)),
        }
    }

    fn footprint(channels: usize) -> usize {
        let leaves = channels.div_ceil(64);
        Block::<u64>::footprint(leaves) + Block::<u64>::footprint(leaves.div_ceil(64))
    }

    fn put(&mut self, channel: u32, on: bool) {
        let (leaf, bit) = (channel as usize / 64, 1 << (channel % 64));
        if on {
            self.leaves[leaf] |= bit;
        } else {
            self.leaves[leaf] &= !bit;
        }
        let summary = BitSlice::<_, Lsb0>::from_slice_mut(&mut self.summary);
        summary.set(leaf, self.leaves[leaf] != 0);
    }

    /// The lowest channel at or above `from`.
    fn next(&self, from: u32) -> Option<u32> {
        let leaf = from as usize / 64;
        let rest = self.leaves.get(leaf)? & (!0 << (from % 64));
        if rest != 0 {
            return Some(leaf as u32 * 64 + rest.trailing_zeros());
        }
        let summary = BitSlice::<_, Lsb0>::from_slice(&self.summary);
        let leaf = leaf + 1 + summary.get(leaf + 1..)?.first_one()?;
        Some(leaf as u32 * 64 + self.leaves[leaf].trailing_zeros())
    }
}

/// Both kinds of membership, subscriptions and pins, with the index by slot.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    rows: Rows,
    pins: Rows,
    by_slot: Block<ChannelSet>,
}

impl Subscriptions {
    pub fn new(rows: Rows, pins: Rows, slots: usize, memory: Memory) -> Self {
        let by_slot = Block::new(memory, slots, |_| ChannelSet::new(rows.channels, memory));
        Self {
            rows,
            pins,
            by_slot,
        }
    }

    /// Bytes that the index takes of a pool, at most.
    pub fn footprint(slots: usize, channels: usize) -> usize {
        Block::<ChannelSet>::footprint(slots) + slots * ChannelSet::footprint(channels)
    }

    /// Reads the index, and how many subscriptions there are, off the rows of the channels below
    /// `channels`: for a successor.
    pub fn recover(&mut self, channels: u32) -> u64 {
        let mut count = 0;
        let by_slot = &mut self.by_slot;
        for channel in 0..channels.min(self.rows.channels as u32) {
            let mut note = |slot: usize| {
                if let Some(set) = by_slot.get_mut(slot) {
                    set.put(channel, true);
                }
            };
            self.pins.for_each(channel, &mut note);
            self.rows.for_each(channel, |slot| {
                count += 1;
                note(slot);
            });
        }
        count
    }

    /// The subscription rows.
    #[inline]
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Subscribes or unsubscribes; true when that changed something.
    pub fn subscribe(&mut self, slot: usize, channel: u32, on: bool) -> bool {
        let changed = self.rows.put(channel, slot, on);
        self.index(slot, channel);
        changed
    }

    /// Pins or unpins.
    pub fn pin(&mut self, slot: usize, channel: u32, on: bool) {
        self.pins.put(channel, slot, on);
        self.index(slot, channel);
    }

    /// True when nobody needs the channel.
    pub fn is_unused(&self, channel: u32) -> bool {
        self.rows.is_empty(channel) && self.pins.is_empty(channel)
    }

    /// The lowest channel at or above `from` that `slot` has joined or pinned.
    pub fn next_of(&self, slot: usize, from: u32) -> Option<u32> {
        self.by_slot[slot].next(from)
    }

    fn index(&mut self, slot: usize, channel: u32) {
        let on = self.rows.has(channel, slot) || self.pins.has(channel, slot);
        self.by_slot[slot].put(channel, on);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn rows(channels: usize, words: usize) -> Rows {
        let bits: Box<[AtomicU64]> = (0..channels * words).map(|_| AtomicU64::new(0)).collect();
        // SAFETY: a leaked array of just this length.
        unsafe { Rows::new(Shared::of(&Box::leak(bits)[0]), words, channels) }
    }

    proptest! {
        #[test]
        fn the_index_walks_what_was_joined(
            ops in proptest::collection::vec((0u32..10_000, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let mut subs = Subscriptions::new(rows(10_000, 2), rows(10_000, 2), 70, Memory::Own);
            let (mut joined, mut pinned) = (BTreeSet::new(), BTreeSet::new());
            for (channel, pin, on) in ops {
                let model = if pin { &mut pinned } else { &mut joined };
                let changed = if on { model.insert(channel) } else { model.remove(&channel) };
                if pin {
                    subs.pin(69, channel, on);
                } else {
                    prop_assert_eq!(subs.subscribe(69, channel, on), changed);
                }
            }
            let mut walked = Vec::new();
            let mut at = subs.next_of(69, 0);
            while let Some(channel) = at {
                walked.push(channel);
                at = subs.next_of(69, channel + 1);
            }
            prop_assert_eq!(walked, joined.union(&pinned).copied().collect::<Vec<_>>());
            prop_assert_eq!(subs.next_of(68, 0), None);
        }
    }

    #[test]
    fn a_row_reports_its_slots_in_order() {
        let rows = rows(3, 2);
        for slot in [64, 3, 127] {
            assert!(rows.put(1, slot, true) && !rows.put(1, slot, true));
        }
        let mut seen = Vec::new();
        rows.for_each(1, |slot| seen.push(slot));
        assert_eq!(seen, [3, 64, 127]);
        assert!(rows.is_empty(0) && rows.is_empty(2) && !rows.is_empty(1));
    }
}
