//! Answers: how the router tells a core what became of a join or an open.
//!
//! Invariant: an answer is complete before its ask number shows, and is not overwritten before the
//! core has taken it (a core has fewer asks open than its mailbox has answers). Who writes: the
//! router. Who reads: the core that asked.

use crate::sync::{AtomicU64, Ordering, order};

/// One answer.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Answer {
    /// The ask number, from 1; stored last with Release.
    ask: AtomicU64,
    /// Channel index in the low half, generation in the high half; 0: no channel was free.
    result: AtomicU64,
}

impl Answer {
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            ask: AtomicU64::new(0),
            result: AtomicU64::new(0),
        }
    }

    /// Router: answers `ask`, after the answer has taken effect.
    pub fn put(&self, ask: u64, result: u64) {
        // Relaxed: published by the store below.
        self.result.store(result, Ordering::Relaxed);
        // SYNC(answer.put): pairs with the Acquire in `result`; publishes the result and the
        // directory, and that the subscription is in force.
        self.ask.store(ask, order("answer.put", Ordering::Release));
    }

    /// Core: the answer to `ask`, once it is there.
    pub fn result(&self, ask: u64) -> Option<u64> {
        // SYNC(answer.get): pairs with the Release in `put`.
        if self.ask.load(order("answer.get", Ordering::Acquire)) != ask {
            return None;
        }
        // Relaxed: ordered by the Acquire above; not overwritten before the ask is consumed.
        Some(self.result.load(Ordering::Relaxed))
    }

    /// Router: forgets the answer, for the slot's next owner.
    pub fn clear(&self) {
        // Relaxed: published by the release of the slot word.
        self.ask.store(0, Ordering::Relaxed);
    }
}
