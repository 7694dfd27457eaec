//! A set of slots: the router's own, in its own memory.

/// Words of a set: as many as a summary word has bits, less one.
const WORDS: usize = 63;
/// Most slots a hub can have.
pub(crate) const MAX_SLOTS: usize = WORDS * 64;

/// A set of slots that never allocates. Of a small hub it is one cache line: in assist mode these
/// lines go from processor to processor.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub(crate) struct SlotSet {
    /// Bit `i`: word `i` is not zero.
    summary: u64,
    words: [u64; WORDS],
}

impl SlotSet {
    pub const fn new() -> Self {
        Self {
            summary: 0,
            words: [0; WORDS],
        }
    }

    #[inline]
    pub fn insert(&mut self, slot: usize) {
        let word = slot / 64;
        self.words[word] |= 1 << (slot % 64);
        self.summary |= 1 << word;
    }

    #[inline]
    pub fn remove(&mut self, slot: usize) {
        let word = slot / 64;
        self.words[word] &= !(1 << (slot % 64));
        if self.words[word] == 0 {
            self.summary &= !(1 << word);
        }
    }

    #[inline]
    pub fn has(&self, slot: usize) -> bool {
        self.words[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// The slot, if it is the only one.
    #[inline]
    pub fn only(&self) -> Option<usize> {
        let word = self.summary.trailing_zeros() as usize;
        let bits = *self.words.get(word)?; // not if the set is empty
        let is_one = self.summary & (self.summary - 1) == 0 && bits & bits.wrapping_sub(1) == 0;
        is_one.then(|| word * 64 + bits.trailing_zeros() as usize)
    }

    /// The lowest slot at or above `from`.
    #[inline]
    pub fn next(&self, from: usize) -> Option<usize> {
        let word = from / 64;
        let rest = self.words.get(word)? & (!0 << (from % 64));
        if rest != 0 {
            return Some(word * 64 + rest.trailing_zeros() as usize);
        }
        let later = self.summary & (!1 << word);
        if later == 0 {
            return None;
        }
        let word = later.trailing_zeros() as usize;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }

    pub fn len(&self) -> usize {
        let (mut words, mut len) = (self.summary, 0);
        while words != 0 {
            len += self.words[words.trailing_zeros() as usize].count_ones() as usize;
            words &= words - 1;
        }
        len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.summary == 0
    }

    /// Calls `each` with every slot and empties the set.
    #[inline]
    pub fn drain(&mut self, mut each: impl FnMut(usize)) {
        let mut words = std::mem::take(&mut self.summary);
        while words != 0 {
            let word = words.trailing_zeros() as usize;
            words &= words - 1;
            let mut bits = std::mem::take(&mut self.words[word]);
            while bits != 0 {
                each(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_slot_set_walks_what_was_put_in(
            ops in proptest::collection::vec((0..MAX_SLOTS, any::<bool>()), 0..200),
        ) {
            let (mut set, mut model) = (SlotSet::new(), BTreeSet::new());
            for (slot, add) in ops {
                if add {
                    set.insert(slot);
                    model.insert(slot);
                } else {
                    set.remove(slot);
                    model.remove(&slot);
                }
            }
            prop_assert_eq!(set.len(), model.len());
            let only = (model.len() == 1).then(|| model.first().copied());
            prop_assert_eq!(set.only(), only.flatten());
            prop_assert!(model.iter().all(|&slot| set.has(slot)));
            let mut walked = Vec::new();
            set.drain(|slot| walked.push(slot));
            prop_assert_eq!(walked, model.into_iter().collect::<Vec<_>>());
            prop_assert!(set.is_empty());
            prop_assert_eq!(set.len(), 0);
        }
    }
}
