//! Slots: noticing new owners, and cleaning up after those that detach, die or do damage.
//!
//! Cleaning up is a list of steps, each of which may be done twice:
//! 1. its subscriptions and open handles end;
//! 2. the messages it published are delivered, in ticket order with everybody else's; joins and
//!    the like that are still in its lane no longer count;
//! 3. lane, queue and mailbox are reset, the ledger says that the slot is free, then its word.

use super::{Bias, Lane, Router, SlotSet, Standing};
use crate::shared::{ANSWERS, Holder};

impl Lane {
    /// Its owner is gone and has left a tail that cannot be believed: the next owner must not
    /// start from there, but from where the router stands.
    fn disown(&self) {
        self.word.reset(self.reader.head());
    }
}

impl Router {
    /// A slot rang: a new owner, news in its lane, or room in its queue.
    pub(super) fn notice(&mut self, slot: usize) {
        if self.lanes[slot].standing == Standing::Free {
            self.notice_owner(slot);
        }
        if self.queues[slot].waits_for_flip() {
            self.queues[slot].refresh(&mut self.arena);
            self.queues[slot].settle(&mut self.arena);
            self.dirty.insert(slot);
        }
        if matches!(
            self.lanes[slot].standing,
            Standing::Live | Standing::Leaving
        ) {
            self.lanes[slot].idle = 0;
            self.active.insert(slot);
        }
    }

    fn notice_owner(&mut self, slot: usize) {
        let (holder, before) = (self.view.slot(slot).load(), self.lanes[slot].holder);
        let is_claim = holder.is_live() && (holder.follows(before) || holder == before);
        if !is_claim {
            if !holder.is_freed(before) {
                // Damage: nobody could take the slot any more, or it would watch over a stranger.
                self.stats.violations += 1;
                self.lanes[slot].disown();
                self.view.slot(slot).free(before);
            }
            return;
        }
        let lane = &mut self.lanes[slot];
        (lane.holder, lane.bias) = (holder, Bias::No);
        self.stands(slot, Standing::Live);
        self.stats.cores += 1;
        self.outcome.owners.insert(slot);
    }

    /// The process that holds the slot, if any.
    pub fn owner_pid(&self, slot: usize) -> Option<u32> {
        self.owner(slot).map(Holder::pid)
    }

    /// What the slot word was when its owner was noticed, if it has one.
    pub fn owner(&self, slot: usize) -> Option<Holder> {
        let lane = &self.lanes[slot];
        (lane.standing != Standing::Free).then_some(lane.holder)
    }

    /// The owner of the slot is dead.
    pub fn reap(&mut self, slot: usize) {
        match self.lanes[slot].standing {
            Standing::Free | Standing::Leaving => return,
            Standing::Live => self.start_leaving(slot),
            Standing::Quarantined => {
                self.lanes[slot].disown();
                self.stands(slot, Standing::Leaving);
                self.leaving.insert(slot);
            }
        }
        self.stats.reaped += 1;
        // A pass must come round to it even if nothing else is going on.
        self.active.insert(slot);
    }

    /// Looks at a slot whose owner may have died before it could ring.
    pub fn look_at(&mut self, slot: usize) {
        self.notice(slot);
    }

    /// Steps 1 of cleaning up; the pass that finds the lane empty does the rest.
    pub(super) fn start_leaving(&mut self, slot: usize) {
        self.stands(slot, Standing::Leaving);
        self.leaving.insert(slot);
        self.leave_all(slot, true);
    }

    fn stands(&mut self, slot: usize, standing: Standing) {
        self.lanes[slot].standing = standing;
        self.lanes[slot].is_changed = true;
        self.touched.insert(slot);
    }

    /// Step 3 for every leaving slot whose lane has been delivered.
    pub(super) fn finish_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let (mut from, mut freed) = (0, SlotSet::new());
        while let Some(slot) = self.leaving.next(from) {
            from = slot + 1;
            let lane = &self.lanes[slot];
            // The tail is final: its owner is dead or has sent its last record.
            let delivered = lane.reader.is_empty() && lane.staged.is_none();
            if delivered && lane.word.tail() == lane.reader.head() {
                self.clear(slot);
                freed.insert(slot);
            }
        }
        if !freed.is_empty() {
            // Free in the ledger before the next owner can come.
            self.publish();
            freed.drain(|slot| self.free(slot));
        }
    }

    fn clear(&mut self, slot: usize) {
        self.leave_all(slot, true);
        self.queues[slot].reset(&mut self.arena);
        self.dirty.insert(slot);
        self.active.remove(slot);
        self.leaving.remove(slot);
        let lane = &mut self.lanes[slot];
        lane.context = None;
        lane.reader.resume(None);
        lane.word.reset(lane.reader.head());
        (lane.asks, lane.answer) = (0, 0);
        (lane.idle, lane.streamed, lane.bias) = (0, 0, Bias::No);
        for answer in &lane.mailbox.answers[..ANSWERS] {
            answer.clear();
        }
        self.stands(slot, Standing::Free);
    }

    fn free(&mut self, slot: usize) {
        self.keep_slab(slot);
        let lane = &mut self.lanes[slot];
        lane.store_head();
        self.bells.heed(slot, true);
        self.view.slot(slot).free(lane.holder);
        // Whatever it has done to the words of slots that it did not hold.
        for sibling in self.view.layout.siblings(slot) {
            let lane = &self.lanes[sibling];
            // One that still has its last owner's word is about to be freed like this one.
            let is_freed = self.view.slot(sibling).load() != lane.holder;
            if lane.standing == Standing::Free && is_freed {
                self.notice_owner(sibling);
            }
        }
        self.stats.cores -= 1;
        self.outcome.owners.insert(slot);
        self.outcome.events.insert(slot);
    }

    /// Cuts off a worker that wrote what no correct one writes.
    pub(super) fn quarantine(&mut self, slot: usize) {
        self.stats.violations += 1;
        let lane = &mut self.lanes[slot];
        self.touched.insert(slot);
        lane.reader.give_up();
        if lane.standing == Standing::Leaving {
            lane.disown();
        } else if lane.standing == Standing::Live {
            lane.holder = self.view.slot(slot).quarantine(lane.holder);
            self.stands(slot, Standing::Quarantined);
            self.stats.quarantined += 1;
            self.active.remove(slot);
            self.outcome.events.insert(slot);
            // It must not keep the router awake, nor make it draw tickets.
            self.bells.heed(slot, false);
            self.leave_all(slot, true);
        }
    }
}
