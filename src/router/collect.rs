//! The first part of a pass: which lanes have news, and how far each may be read.
//!
//! The order of draw, doorbells and tails is what the promise of order rests on; see `ticket`.

use super::Router;
use crate::config::Order;
use crate::ticket;

/// Passes without a cut in a row.
const SOLE_PASSES: u32 = 4096;
/// Cuts between two looks at how far the tickets are behind the clock.
const CATCH_UP: u32 = 1024;

impl Router {
    /// Finds the lanes with news and takes their tails. Some(T): deliver what is below T; None:
    /// deliver everything, it is all of one lane.
    pub(super) fn collect(&mut self) -> Option<u64> {
        if self.active.is_empty() {
            self.take_doorbells();
        }
        if self.view.config.order == Order::PerSender {
            self.take_doorbells();
            self.extend_all();
            return None;
        }
        if let Some(slot) = self.sole_lane() {
            if self.collect_sole(slot) {
                return None;
            }
        }
        if self.active.is_empty() {
            return None;
        }
        // The order of these three is what the promise rests on, see `ticket`.
        let cut = self.cut();
        self.take_doorbells();
        self.extend_all();
        // Relaxed by nature: it only narrows what senders take for plausible.
        self.floor = cut.wrapping_add(1);
        self.view.floor.raise(cut);
        Some(cut)
    }

    /// The active lane, if there is one alone. Now and then a cut is due all the same, lest the floor
    /// fall too far behind the counter.
    fn sole_lane(&mut self) -> Option<usize> {
        let slot = self.active.only().filter(|_| self.may_do_without_cut())?;
        self.sole_passes = self.sole_passes.wrapping_add(1);
        (self.sole_passes % SOLE_PASSES != 0).then_some(slot)
    }

    /// Draws the ticket of a cut.
    pub(super) fn draw(&mut self) -> u64 {
        let tickets = self.view.tickets;
        self.cuts = self.cuts.wrapping_add(1);
        let cut = tickets.cut(self.floor, ticket::clock);
        if self.cuts % CATCH_UP == 0 {
            return tickets.catch_up(cut, ticket::clock);
        }
        cut
    }

    /// Tries to take the only active lane's tail without a cut: tail first, then the doorbell. If
    /// nothing else is rung, whatever was published before those records is in this lane too.
    fn collect_sole(&mut self, slot: usize) -> bool {
        let tail = self.lanes[slot].word.read().tail();
        if self.bells.is_rung() {
            return false;
        }
        self.extend(slot, tail);
        true
    }

    fn take_doorbells(&mut self) {
        for line in 0..self.bells.len() {
            let Some((first, mut bits)) = self.bells.take(line) else {
                continue;
            };
            while bits != 0 {
                self.notice(first + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    fn extend_all(&mut self) {
        let mut from = 0;
        while let Some(slot) = self.active.next(from) {
            from = slot + 1;
            let tail = self.lanes[slot].word.read().tail();
            self.extend(slot, tail);
            self.between_tails();
        }
    }

    fn extend(&mut self, slot: usize, tail: u64) {
        if self.lanes[slot].reader.extend(tail).is_err() {
            self.quarantine(slot);
        }
    }
}
