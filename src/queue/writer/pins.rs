//! What the buffers of a queue refer to in the arena.

use crate::arena::{Arena, Extent};

/// Extents that one buffer can refer to; what lies side by side counts as one. A buffer that has no
/// more gets copies instead.
const EXTENTS: usize = 48;

/// The pins of one buffer.
#[derive(Debug)]
pub(super) struct Pins {
    extents: [Extent; EXTENTS],
    len: usize,
    /// Those from here on belong to what is pending.
    pending: usize,
}

impl Pins {
    pub const fn new() -> Self {
        let nothing = Extent { first: 0, count: 0 };
        Self {
            extents: [nothing; EXTENTS],
            len: 0,
            pending: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn is_full(&self) -> bool {
        self.len == EXTENTS
    }

    /// Pins what a reference that becomes pending refers to. The caller has asked `is_full`.
    #[inline]
    pub fn push(&mut self, arena: &mut Arena, extent: Extent) {
        if let Some(last) = self.last_pending() {
            let begins = last.first..=last.end();
            if begins.contains(&extent.first) {
                // Runs are cut from chunks one behind the other.
                let more = Extent {
                    first: last.end(),
                    count: extent.end().saturating_sub(last.end()),
                };
                last.count += more.count;
                return arena.pin(more);
            }
        }
        arena.pin(extent);
        self.extents[self.len] = extent;
        self.len += 1;
    }

    fn last_pending(&mut self) -> Option<&mut Extent> {
        self.extents[self.pending..self.len].last_mut()
    }

    /// What is pending is published.
    #[inline]
    pub fn publish(&mut self) {
        self.pending = self.len;
    }

    /// The core or the router has done with the buffer.
    #[inline]
    pub fn release(&mut self, arena: &mut Arena) {
        for &extent in &self.extents[..self.len] {
            arena.unpin(extent);
        }
        (self.len, self.pending) = (0, 0);
    }

    /// Moves what is pending over to `other`, which is empty.
    pub fn move_pending(&mut self, other: &mut Self) {
        let pending = &self.extents[self.pending..self.len];
        other.extents[..pending.len()].copy_from_slice(pending);
        (other.len, other.pending) = (pending.len(), 0);
        self.len = self.pending;
    }
}
