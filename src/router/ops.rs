//! Operations: join, leave and their kin, which travel as records in the core's lane, in order
//! with its messages. Only the router sets and clears subscription bits.

use super::deliver::copy_name;
use super::{Flow, Router, Standing};
use crate::directory::{ChannelId, check_name};
use crate::lane::{LaneRecord, Violation};
use crate::ledger::pack;
use crate::record::{NAME_MAX, flags, kind};
use crate::sync::foreign;

impl Router {
    /// Carries out one operation of the core in `slot`.
    pub(super) fn operation(&mut self, slot: usize, record: LaneRecord) -> Result<Flow, Violation> {
        if self.lanes[slot].standing == Standing::Leaving {
            // All of its memberships have ended. A join that was on its way must not bring one
            // back: nobody would ever take from its queue, and a hub that blocks would stop.
            return Ok(Flow::Done);
        }
        if self.flush() == Flow::Blocked {
            return Ok(Flow::Blocked);
        }
        let header = record.header;
        let notify = header.flags() & flags::NOTIFY != 0;
        match header.kind() {
            kind::JOIN => self.ask(slot, record, Self::join)?,
            kind::OPEN => self.ask(slot, record, Self::open)?,
            kind::LEAVE => {
                let mut buffer = [0; NAME_MAX];
                let name = record_name(&mut buffer, record)?;
                if let Some(id) = self.directory.view().find(name) {
                    self.leave(slot, id.index);
                }
            }
            kind::LEAVE_ALL => self.leave_all(slot, false),
            kind::CLOSE => self.close(slot, header.channel(), close_generation(record)?),
            kind::DETACH => {
                self.start_leaving(slot);
                return Ok(Flow::Done);
            }
            _ => return Err(Violation),
        }
        self.done(slot, notify);
        Ok(Flow::Done)
    }

    /// Answers a join or an open with the channel, or with "none free". In a transaction of its
    /// own: the answer is for good once it is given.
    fn ask(
        &mut self,
        slot: usize,
        record: LaneRecord,
        act: fn(&mut Self, usize, u32),
    ) -> Result<(), Violation> {
        let mut buffer = [0; NAME_MAX];
        let name = record_name(&mut buffer, record)?;
        self.publish();
        self.view.ledger.set_fresh(self.directory.fresh() + 1);
        let id = self.directory.intern(name);
        if let Some(id) = id {
            act(self, slot, id.index);
        }
        let lane = &mut self.lanes[slot];
        lane.asks += 1;
        lane.answer = id.map_or(0, |id| pack(id.index, id.generation));
        self.answering = Some(slot);
        self.publish_after_this();
        self.stats.channels = self.directory.live().into();
        Ok(())
    }

    fn join(&mut self, slot: usize, channel: u32) {
        if self.subscriptions.subscribe(slot, channel, true) {
            self.stats.joins += 1;
            self.stats.subscriptions += 1;
        }
    }

    fn open(&mut self, slot: usize, channel: u32) {
        self.subscriptions.pin(slot, channel, true);
    }

    fn leave(&mut self, slot: usize, channel: u32) {
        if self.subscriptions.subscribe(slot, channel, false) {
            self.stats.leaves += 1;
            self.stats.subscriptions -= 1;
            self.recycle_if_unused(channel);
        }
    }

    /// A leave that takes effect before its turn: it may lie behind the very message that waits
    /// for room in the queue of the core that leaves, which has no reason to receive any more.
    /// Nobody can tell, for the core drops what was on its way. False: it has not left.
    #[cold]
    pub(super) fn leave_ahead(&mut self, slot: usize, channel: u32) -> bool {
        let (mut ahead, word) = (self.lanes[slot].reader.ahead(), self.lanes[slot].word);
        while let Ok(Some(record)) = ahead.peek(&word) {
            if self.is_leave_of(record, channel) {
                self.leave(slot, channel);
                return true;
            }
            ahead.advance(record.size);
        }
        false
    }

    fn is_leave_of(&self, record: LaneRecord, channel: u32) -> bool {
        match record.header.kind() {
            kind::LEAVE_ALL | kind::DETACH => true,
            kind::LEAVE => {
                let mut buffer = [0; NAME_MAX];
                let name = record_name(&mut buffer, record).ok();
                let id = name.and_then(|name| self.directory.view().find(name));
                id.is_some_and(|id| id.index == channel)
            }
            _ => false,
        }
    }

    fn close(&mut self, slot: usize, channel: u32, generation: u32) {
        let id = ChannelId {
            index: channel,
            generation,
        };
        if self.directory.view().is_current(id) {
            self.subscriptions.pin(slot, channel, false);
            self.recycle_if_unused(channel);
        }
    }

    /// Ends all subscriptions of a slot, with `pins` also its open handles.
    pub(super) fn leave_all(&mut self, slot: usize, pins: bool) {
        let mut from = 0;
        while let Some(channel) = self.subscriptions.next_of(slot, from) {
            from = channel + 1;
            if pins {
                self.subscriptions.pin(slot, channel, false);
                self.recycle_if_unused(channel);
            }
            self.leave(slot, channel);
        }
    }

    fn recycle_if_unused(&mut self, channel: u32) {
        if self.subscriptions.is_unused(channel) {
            self.directory.remove(channel);
            self.removals += 1;
            self.stats.channels = self.directory.live().into();
        }
    }

    /// Tells the core, at this place of its stream, that one more operation took effect.
    fn done(&mut self, slot: usize, notify: bool) {
        let queue = &mut self.queues[slot];
        queue.op_done(notify);
        queue.settle(&mut self.arena);
        self.dirty.insert(slot);
        if notify {
            // Armed or not: a loop that joins before it first receives waits for the descriptor.
            self.outcome.wakes.others.insert(slot);
        }
    }
}

/// The generation that is the payload of a CLOSE.
fn close_generation(record: LaneRecord) -> Result<u32, Violation> {
    if record.header.len() != size_of::<u64>() {
        return Err(Violation);
    }
    foreign(record.payload, size_of::<u64>());
    // SAFETY: eight readable bytes, 16-byte aligned; volatile: they are not ours.
    Ok(unsafe { record.payload.cast::<u64>().read_volatile() } as u32)
}

/// The name that is a record's whole payload.
fn record_name(buffer: &mut [u8; NAME_MAX], record: LaneRecord) -> Result<&[u8], Violation> {
    let len = record.header.len();
    if len > NAME_MAX {
        return Err(Violation);
    }
    let name = copy_name(buffer, record.payload, len);
    check_name(name).map_err(|_| Violation)?;
    Ok(name)
}
