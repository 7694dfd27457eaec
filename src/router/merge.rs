//! Lanes that wait for their turn, smallest ticket first: a binary heap in the router's memory.

use crate::memory::{Block, Memory};

/// The heap. Each lane is in it once at most.
#[derive(Debug)]
pub(super) struct Merge {
    /// Ticket, counted from the cut, and slot.
    heap: Block<(u64, u32)>,
    len: usize,
}

impl Merge {
    pub fn new(memory: Memory, slots: usize) -> Self {
        Self {
            heap: Block::zeroed(memory, slots),
            len: 0,
        }
    }

    /// Bytes that it takes of a pool, at most.
    pub fn footprint(slots: usize) -> usize {
        Block::<(u64, u32)>::footprint(slots)
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The entry whose turn it is.
    #[inline]
    pub fn first(&self) -> Option<(u64, u32)> {
        self.heap[..self.len].first().copied()
    }

    pub fn push(&mut self, entry: (u64, u32)) {
        let mut at = self.len;
        self.len += 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] <= entry {
                break;
            }
            self.heap[at] = self.heap[parent];
            at = parent;
        }
        self.heap[at] = entry;
    }

    pub fn pop(&mut self) -> Option<(u64, u32)> {
        let first = self.first()?;
        self.len -= 1;
        let last = self.heap[self.len];
        let mut at = 0;
        while let Some(child) = self.smaller_child(at).filter(|&c| self.heap[c] < last) {
            self.heap[at] = self.heap[child];
            at = child;
        }
        if self.len > 0 {
            self.heap[at] = last;
        }
        Some(first)
    }

    fn smaller_child(&self, of: usize) -> Option<usize> {
        let left = 2 * of + 1;
        let children = self.heap[..self.len].get(left..)?;
        let second_is_smaller = children.get(1).is_some_and(|right| *right < children[0]);
        (!children.is_empty()).then_some(left + usize::from(second_is_smaller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    proptest! {
        #[test]
        fn it_behaves_like_the_standard_heap(
            ops in proptest::collection::vec((any::<bool>(), 0u64..20, 0u32..40), 0..300),
        ) {
            let (mut merge, mut model) = (Merge::new(Memory::Own, 300), BinaryHeap::new());
            for (push, ticket, slot) in ops {
                if push {
                    merge.push((ticket, slot));
                    model.push(Reverse((ticket, slot)));
                } else {
                    prop_assert_eq!(merge.pop(), model.pop().map(|Reverse(entry)| entry));
                }
                prop_assert_eq!(merge.first(), model.peek().map(|&Reverse(entry)| entry));
            }
        }
    }
}
