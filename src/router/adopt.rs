//! Adoption: a router that goes on where a dead master has stopped.
//!
//! Lanes and queues come back from the ledger (see `transaction` and `queue::writer::resume`).
//! What the dead master had routed and not committed lies in the lanes still and is routed again;
//! what it had committed and not published is pending, and published here. Memberships are read
//! off the rows. A join, leave or reaping that it was in the middle of is begun again from its
//! record, or from the evidence of the death: each is such that doing it twice is doing it once.
//!
//! Everything here may be done twice too: a successor can die like its predecessor.

use std::sync::Arc;

use super::{Router, Standing};
use crate::memory::Memory;
use crate::stats::Stats;
use crate::view::View;

impl Router {
    /// The router of a hub whose master is dead. The calling process must be the only one that
    /// may be the next. What is left to do for the master is in `outcome`.
    pub fn adopt(view: Arc<View>, clock: fn() -> u64, memory: Memory) -> Self {
        let mut new = Self::new(view, clock, memory);
        let fresh = new.view.ledger.fresh();
        new.stored = Stats::load(&new.view.header.counters);
        new.stats = new.stored;
        new.stats.subscriptions = new.subscriptions.recover(fresh);
        let subscriptions = &new.subscriptions;
        new.directory
            .recover(fresh, |channel| !subscriptions.is_unused(channel));
        new.stats.channels = new.directory.live().into();
        new.stats.cores = 0;
        for slot in 0..new.lanes.len() {
            new.resume(slot);
        }
        new.publish();
        new
    }

    fn resume(&mut self, slot: usize) {
        self.adopt_slab(slot);
        let lane = &mut self.lanes[slot];
        lane.give_answer();
        lane.store_head();
        let standing = lane.standing;
        match standing {
            Standing::Free => return self.free_again(slot),
            Standing::Live if self.queues[slot].is_damaged() => self.quarantine(slot),
            Standing::Live => self.dirty.insert(slot),
            Standing::Leaving => {
                self.leaving.insert(slot);
                self.active.insert(slot);
            }
            Standing::Quarantined => {}
        }
        if standing != Standing::Live {
            self.leave_all(slot, true);
        }
        self.stats.cores += 1;
        // Whatever it sleeps for: the dead master may have been about to wake it.
        self.wake(slot, true);
        self.wake(slot, false);
        self.outcome.events.insert(slot);
    }

    /// The dead master may have been about to give the slot to its next owner.
    fn free_again(&mut self, slot: usize) {
        let (word, freed) = (self.view.slot(slot), self.lanes[slot].holder);
        let actual = word.load();
        if !actual.is_free() && actual.generation() == freed.generation() {
            word.free(freed);
        }
    }
}
