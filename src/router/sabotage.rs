//! Negative controls: ways to make the router break its promise of order, so that the tests can
//! show that they would notice. In debug builds only; a release build has none of it.

use super::Router;
use crate::lane::LaneRecord;

/// What to spoil. Nothing by default.
#[cfg(debug_assertions)]
#[derive(Default)]
pub struct Sabotage {
    /// Take the counter as the cut without drawing a ticket; always, also where one lane alone
    /// would need no cut.
    pub cut_without_draw: bool,
    /// Carry out what was not committed.
    pub skip_commit: bool,
    /// Runs after the tail of each lane has been read.
    pub between_tails: Option<Box<dyn FnMut() + Send>>,
}

#[cfg(debug_assertions)]
impl std::fmt::Debug for Sabotage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sabotage")
            .field("cut_without_draw", &self.cut_without_draw)
            .field("skip_commit", &self.skip_commit)
            .finish_non_exhaustive()
    }
}

#[cfg(debug_assertions)]
impl Router {
    pub(super) fn cut(&mut self) -> u64 {
        if self.sabotage.cut_without_draw {
            return self.view.tickets.peek();
        }
        self.draw()
    }

    pub(super) fn may_do_without_cut(&self) -> bool {
        !self.sabotage.cut_without_draw
    }

    pub(super) fn store_commit(&self, transaction: u64) {
        if !self.sabotage.skip_commit {
            self.view.ledger.commit(transaction);
        }
    }

    pub(super) fn between_tails(&mut self) {
        if let Some(act) = &mut self.sabotage.between_tails {
            act();
        }
    }
}

#[cfg(not(debug_assertions))]
impl Router {
    #[inline]
    pub(super) fn cut(&mut self) -> u64 {
        self.draw()
    }

    #[inline]
    pub(super) fn may_do_without_cut(&self) -> bool {
        true
    }

    #[inline]
    pub(super) fn store_commit(&self, transaction: u64) {
        self.view.ledger.commit(transaction);
    }

    #[inline]
    pub(super) fn between_tails(&mut self) {}
}

/// The record whose header has been checked; for the fuzzer's own control, one whose header is
/// fetched once more after the check.
#[inline(always)]
pub(super) fn checked(record: LaneRecord) -> LaneRecord {
    #[cfg(corecast_fuzz)]
    if crate::rig::fetches_twice() {
        let at = record.payload.wrapping_sub(crate::record::HEADER);
        // SAFETY: the record lies in its lane; that its header may have changed is the point.
        let header = unsafe { crate::record::Header::read(at) };
        return LaneRecord { header, ..record };
    }
    record
}
