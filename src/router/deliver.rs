//! Delivery: from a record in a lane to the queues of the subscribed cores.
//!
//! Small messages to one channel are copied once, header checked and rewritten, into a staging
//! buffer of the router's own; each queue then gets the whole run with one copy. So every queue
//! receives what was checked, not what a lane may hold a moment later, and fan-out copies from
//! the L1 cache.

use super::{Flow, OP_BYTES, Router};
use crate::config::{Config, Overflow, Timestamps};
use crate::directory::ChannelId;
use crate::lane::{LaneRecord, Violation};
use crate::record::{self, Header, STAMP_BYTES, flags, full_ticket, kind, round_up};
use crate::sync::foreign;

/// Records up to this size go through the staging buffer.
const STAGED_RECORD: usize = 1024;

/// How far ahead a run asks for the cache lines of the lane, bytes: another processor had them.
const AHEAD: usize = 512;

/// What a message must look like to be staged without further questions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small {
    /// Kind and flags, the low 16 bits of word 1.
    kind: u16,
    /// Payload bytes.
    min: usize,
    max: usize,
}

impl Small {
    pub fn new(config: &Config) -> Self {
        let stamped = config.timestamps == Timestamps::Message;
        let (flags, stamp) = if stamped {
            (flags::TIMED, STAMP_BYTES)
        } else {
            (0, 0)
        };
        Self {
            kind: u16::from(kind::MESSAGE) | u16::from(flags) << 8,
            min: stamp,
            max: (config.max_message + stamp).min(STAGED_RECORD - record::HEADER),
        }
    }

    #[inline]
    fn matches(self, header: Header, channel: u32) -> bool {
        header.w1 as u16 == self.kind
            && header.origin() == channel
            && header.len() <= self.max
            && header.len() >= self.min
    }
}

/// A run of small messages to one channel, ready for the queues.
#[derive(Debug)]
pub(super) struct Stage {
    /// 16-byte aligned by its element type.
    buffer: Box<[u128]>,
    /// Bytes and messages in it.
    len: usize,
    messages: u32,
    channel: u32,
}

impl Stage {
    /// A stage whose runs fit into an empty queue of `queue_bytes`.
    pub fn new(queue_bytes: usize) -> Self {
        let bytes = OP_BYTES.min(queue_bytes / 2);
        Self {
            buffer: vec![0; bytes / size_of::<u128>()].into_boxed_slice(),
            len: 0,
            messages: 0,
            channel: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn takes(&self, channel: u32, size: usize) -> bool {
        self.len == 0 || (channel == self.channel && self.has_room(size))
    }

    #[inline]
    fn has_room(&self, size: usize) -> bool {
        self.len + size <= size_of_val(&*self.buffer)
    }

    /// Adds a message; the caller has asked `takes`.
    #[inline]
    fn push(&mut self, header: Header, payload: *const u8) {
        let record = payload.wrapping_sub(record::HEADER);
        self.push_alike(record, header.size(), header, header);
    }

    /// Adds the record at `from`, whose header was loaded as `claimed` and is passed on as
    /// `routed`, and those behind it with the very same header, within `left` bytes. Returns the
    /// bytes taken; at least one record, for which the caller has asked `takes`.
    #[inline]
    fn push_alike(
        &mut self,
        from: *const u8,
        left: usize,
        claimed: Header,
        routed: Header,
    ) -> usize {
        let (size, payload) = (claimed.size(), round_up(claimed.len()));
        let limit = left.min(size_of_val(&*self.buffer) - self.len);
        debug_assert!(size <= limit);
        let (mut at, mut messages) = (0, 0);
        // SAFETY: at + size <= limit: the record lies whole, with its padding, in the sender's lane
        // (checked by the lane's reader or the caller), and fits here. Each header is loaded once.
        unsafe {
            let to = self.buffer.as_mut_ptr().cast::<u8>().add(self.len);
            loop {
                let body = from.wrapping_add(at + record::HEADER);
                routed.write(to.add(at));
                record::copy_records(body, to.add(at + record::HEADER), payload);
                (at, messages) = (at + size, messages + 1);
                if at + size > limit || Header::read(from.add(at)) != claimed {
                    break;
                }
                if at + AHEAD < left {
                    record::prefetch_read(from.add(at + AHEAD));
                }
            }
        }
        self.channel = routed.channel();
        self.len += at;
        self.messages += messages;
        at
    }
}

impl Router {
    /// The messages that follow in this lane go to another channel.
    pub(super) fn context(&mut self, slot: usize, record: LaneRecord) -> Result<(), Violation> {
        let id = ChannelId {
            index: record.header.channel(),
            generation: record.header.ticket() as u32,
        };
        if id.index as usize >= self.view.layout.channels {
            return Err(Violation);
        }
        self.lanes[slot].context = Some(id);
        self.lanes[slot].checked_at = u64::MAX;
        Ok(())
    }

    /// A message to the lane's current channel.
    #[inline]
    pub(super) fn message(&mut self, slot: usize, record: LaneRecord) -> Result<Flow, Violation> {
        let lane = &mut self.lanes[slot];
        let Some(id) = lane.context else {
            return Err(Violation);
        };
        if id.index != record.header.channel() || !self.is_message_valid(record.header) {
            return Err(Violation);
        }
        let lane = &mut self.lanes[slot];
        if lane.checked_at != self.removals {
            if !self.directory.view().is_current(id) {
                self.stats.messages += 1;
                self.stats.unheard += 1;
                return Ok(Flow::Done);
            }
            lane.checked_at = self.removals;
        }
        let record = super::sabotage::checked(record);
        let header = record.header.routed(id.index, slot as u32);
        Ok(self.deliver(header, record.payload))
    }

    /// Stages a run of small messages to the lane's current channel: what most traffic consists
    /// of, so it is one tight loop. It stops at anything else and leaves that to `message` and
    /// its kin; each header is loaded once, checked and rewritten here as well.
    #[inline]
    pub(super) fn run(&mut self, slot: usize, limit: Option<(u64, u64)>) {
        let lane = &mut self.lanes[slot];
        let Some(id) = lane.context else { return };
        if lane.checked_at != self.removals || !self.stage.takes(id.index, record::HEADER) {
            return;
        }
        let (base, span) = lane.reader.span();
        let span = span.min(self.budget);
        let mut at = 0;
        while at + record::HEADER <= span {
            // SAFETY: a header lies in the span, 16-byte aligned like every position in a lane.
            let header = unsafe { Header::read(base.add(at)) };
            let size = header.size();
            let fits = at + size <= span && self.stage.has_room(size);
            if !fits || !self.small.matches(header, id.index) {
                break;
            }
            if let Some((limit, cut)) = limit {
                if !super::is_below(full_ticket(header.ticket(), cut), limit, cut) {
                    break;
                }
            }
            let routed = header.routed(id.index, slot as u32);
            let (from, left) = (base.wrapping_add(at), span - at);
            at += self.stage.push_alike(from, left, header, routed);
        }
        if at > 0 {
            self.stages_from(slot);
            self.lanes[slot].reader.advance(at);
            self.budget -= at;
        }
    }

    /// Notes where the first of a lane's records in the stage begins.
    #[inline]
    fn stages_from(&mut self, slot: usize) {
        let lane = &mut self.lanes[slot];
        if lane.staged.is_none() {
            lane.staged = Some(lane.position());
            self.staged.insert(slot);
        }
    }

    /// A message to a channel given by name: payload is a length byte and the name, padded to 16
    /// bytes, then what a message has.
    pub(super) fn named(&mut self, slot: usize, record: LaneRecord) -> Result<Flow, Violation> {
        let len = record.header.len();
        if len == 0 {
            return Err(Violation);
        }
        foreign(record.payload, 1);
        // SAFETY: one byte of payload is readable.
        let name_len = usize::from(unsafe { record.payload.read_volatile() });
        let prefix = round_up(1 + name_len);
        if name_len == 0 || prefix > len {
            return Err(Violation);
        }
        let mut name = [0; record::NAME_MAX];
        let name = copy_name(&mut name, record.payload.wrapping_add(1), name_len);
        let ticket = record.header.ticket();
        let found = self.directory.view().find(name);
        let channel = found.map_or(0, |id| id.index);
        let flags = record.header.flags();
        let header = Header::new(kind::MESSAGE, flags, channel, len - prefix, ticket);
        if !self.is_message_valid(header) {
            return Err(Violation);
        }
        if found.is_none() {
            self.stats.messages += 1;
            self.stats.unheard += 1;
            return Ok(Flow::Done);
        }
        let header = header.routed(channel, slot as u32);
        Ok(self.deliver(header, record.payload.wrapping_add(prefix)))
    }

    #[inline]
    fn is_message_valid(&self, header: Header) -> bool {
        let timed = header.flags() & flags::TIMED != 0;
        let stamp = if timed { STAMP_BYTES } else { 0 };
        header.flags() & !flags::TIMED == 0
            && header.len() >= stamp
            && header.len() - stamp <= self.view.config.max_message
    }

    #[inline]
    fn deliver(&mut self, header: Header, payload: *const u8) -> Flow {
        let size = header.size();
        if size > STAGED_RECORD {
            return self.deliver_large(header, payload);
        }
        if !self.stage.takes(header.channel(), size) && self.flush() == Flow::Blocked {
            return Flow::Blocked;
        }
        self.stages_from(header.slot() as usize);
        self.stage.push(header, payload);
        Flow::Done
    }

    /// One message straight from the lane to each queue.
    fn deliver_large(&mut self, header: Header, payload: *const u8) -> Flow {
        let channel = header.channel();
        if self.flush() == Flow::Blocked || self.is_blocked(channel, header.size()) {
            return Flow::Blocked;
        }
        let (now, overflow) = (self.stamp(), self.view.config.overflow);
        let rows = *self.subscriptions.rows();
        let mut heard = false;
        rows.for_each(channel, |slot| {
            heard = true;
            let appended = self.queues[slot].append_large(header, payload, now, overflow);
            self.stats.deliveries += u64::from(appended.taken);
            self.stats.lost += u64::from(appended.lost);
            self.dirty.insert(slot);
        });
        self.account(1, heard, header.size());
        Flow::Done
    }

    /// Appends the staged run to the queues of its channel.
    #[inline]
    pub(super) fn flush(&mut self) -> Flow {
        if self.stage.is_empty() {
            return Flow::Done;
        }
        let (len, messages) = (self.stage.len, self.stage.messages);
        if self.is_blocked(self.stage.channel, len) {
            return Flow::Blocked;
        }
        let (now, overflow) = (self.stamp(), self.view.config.overflow);
        let rows = *self.subscriptions.rows();
        let records = self.stage.buffer.as_ptr().cast();
        let mut heard = false;
        rows.for_each(self.stage.channel, |slot| {
            heard = true;
            let appended = self.queues[slot].append(records, len, messages, now, overflow);
            self.stats.deliveries += u64::from(appended.taken);
            self.stats.lost += u64::from(appended.lost);
            self.dirty.insert(slot);
        });
        (self.stage.len, self.stage.messages) = (0, 0);
        let lanes = &mut self.lanes;
        self.staged.drain(|slot| lanes[slot].staged = None);
        self.account(messages, heard, len);
        self.publish_if_due();
        Flow::Done
    }

    /// Counts messages that have been delivered.
    fn account(&mut self, messages: u32, heard: bool, bytes: usize) {
        self.stats.messages += u64::from(messages);
        if !heard {
            self.stats.unheard += u64::from(messages);
        }
        self.unpublished += bytes;
    }

    /// Under [`Overflow::Block`]: true when a subscriber has no room for `size` more bytes. Its
    /// core is asked to ring when it flips.
    fn is_blocked(&mut self, channel: u32, size: usize) -> bool {
        if self.view.config.overflow != Overflow::Block {
            return false;
        }
        let rows = *self.subscriptions.rows();
        let mut blocked = None;
        rows.for_each(channel, |slot| {
            let is_in_the_way = blocked.is_none() && !self.queues[slot].has_room(size);
            if is_in_the_way && !self.leave_ahead(slot, channel) {
                blocked = Some(slot);
            }
        });
        if let Some(slot) = blocked {
            self.dirty.insert(slot);
            self.blocked_on = blocked;
        }
        blocked.is_some()
    }
}

/// Copies `len` bytes of a name that another process may still change.
pub(super) fn copy_name(to: &mut [u8; record::NAME_MAX], from: *const u8, len: usize) -> &[u8] {
    foreign(from, len);
    // SAFETY: the caller checked that `len` (at most 255) bytes are readable; a copy, because the
    // bytes are not ours.
    unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), len) };
    &to[..len]
}
