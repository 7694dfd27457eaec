//! The last part of a pass, and of all work: lanes are given back what was routed, and those that stay
//! empty are armed, after their bias, if they have one, has been revoked.

use super::{Bias, IDLE_PASSES, Router, STREAM};

impl Router {
    /// Arms every lane that is empty; false when news came meanwhile, or a barrier is due. After this,
    /// and [`Self::try_sleep`], the router may sleep.
    pub fn rest(&mut self) -> bool {
        let (mut from, mut all) = (0, true);
        while let Some(slot) = self.active.next(from) {
            from = slot + 1;
            all &= !self.lanes[slot].reader.is_empty() || self.arm(slot);
        }
        all
    }

    /// How many lanes may have news without ringing, and whether the first of them is biased.
    pub fn streams(&self) -> (usize, bool) {
        let first = self.active.next(0);
        let is_biased = first.is_some_and(|slot| self.lanes[slot].bias == Bias::Yes);
        (self.active.len(), is_biased)
    }

    /// Biases a lane as if it had streamed; false when it is armed, or may not be biased.
    pub fn presume_stream(&mut self, slot: usize) -> bool {
        if self.active.next(slot) != Some(slot) || !self.may_bias {
            return false;
        }
        let lane = &mut self.lanes[slot];
        (lane.streamed, lane.bias) = (STREAM, Bias::of(lane.word.bias()));
        lane.bias == Bias::Yes
    }

    /// After the barrier: lanes whose bias has been revoked can be armed.
    pub fn settle(&mut self) {
        self.outcome.barrier = false;
        let lanes = &mut self.lanes;
        self.revoked.drain(|slot| {
            // Unless it has had another owner since.
            if lanes[slot].bias == Bias::Revoked {
                lanes[slot].bias = Bias::No;
            }
        });
    }

    /// Says that the router sleeps; false when something is rung, and it does not.
    pub fn try_sleep(&mut self) -> bool {
        self.view.sleep.try_sleep(|| self.bells.is_rung())
    }

    /// Gives consumed lane bytes back and arms lanes that stay empty; true when a head moved.
    pub(super) fn release(&mut self) -> bool {
        let (mut from, mut moved) = (0, false);
        while let Some(slot) = self.active.next(from) {
            from = slot + 1;
            if self.lent.has(slot) {
                self.give_slab_back(slot);
            }
            let lane = &mut self.lanes[slot];
            if lane.store_head() {
                (lane.idle, moved) = (0, true);
                // A core that set the bit before this move sleeps or is about to; one that sets it
                // later looks at the head again.
                if lane.word.read().is_waiting() && lane.word.take_waiting() {
                    self.outcome.events.insert(slot);
                }
            }
            if lane.bias == Bias::No && lane.streamed >= STREAM && self.may_bias {
                lane.bias = Bias::of(lane.word.bias());
            }
            if !lane.reader.is_empty() {
                continue;
            }
            lane.idle = lane.idle.saturating_add(1);
            if lane.idle > IDLE_PASSES {
                self.arm(slot);
            }
        }
        moved
    }

    /// Arms an empty lane; false when it has news, or must not be armed before the next barrier.
    pub(super) fn arm(&mut self, slot: usize) -> bool {
        let lane = &mut self.lanes[slot];
        // Its owner may have biased it when it rang.
        let is_biased = || lane.word.is_biased() && !self.view.config.assist;
        if lane.bias == Bias::Yes || lane.bias == Bias::No && is_biased() {
            lane.word.revoke(lane.streamed >= STREAM && self.may_bias);
            lane.bias = Bias::Revoked;
            self.revoked.insert(slot);
            self.outcome.barrier = true;
        }
        if lane.bias == Bias::Revoked {
            return false;
        }
        if lane.word.arm(lane.reader.head()) {
            lane.streamed = 0;
            self.active.remove(slot);
            return true;
        }
        if lane.word.take_waiting() {
            self.outcome.events.insert(slot);
        }
        false
    }
}
