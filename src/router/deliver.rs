//! Delivery: from a record in a lane to the queues of the subscribed cores.
//!
//! Small messages to one channel are copied once, header checked and rewritten, into the stage
//! (`stage`); each queue then gets a reference to the whole run, or a copy where that is cheaper. A
//! large message is read where its sender has placed it, in its slab. One that comes through the lane is
//! copied into the arena by itself, or, where there is no room, to each queue. So every queue receives
//! headers that were checked, not what a lane may hold a moment later.

use super::stage::longest_record;
use super::{Flow, Router};
use crate::arena::{Arena, Extent, Span};
use crate::config::{Config, Overflow, Timestamps};
use crate::directory::ChannelId;
use crate::lane::{LaneRecord, Violation};
use crate::queue::{Appended, QueueWriter, Run};
use crate::record::{self, Header, Pack, Placed, STAMP_BYTES, flags, full_ticket, kind, round_up};
use crate::sync::foreign;

/// Bytes that a reference must save each queue, and all of them together, to be worth its upkeep.
const SHARED_RUN: usize = 256;
const SHARED_SUM: usize = 1024;

/// True when `bytes` for so many queues are better written once and referred to.
fn is_worth_sharing(bytes: usize, queues: usize) -> bool {
    bytes >= SHARED_RUN && bytes * queues >= SHARED_SUM
}

/// What a message must look like to be staged without further questions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small {
    /// Kind and flags, the low 16 bits of word 1.
    kind: u16,
    /// Payload bytes.
    min: usize,
    max: usize,
    /// The same of a pack, and of each body in it.
    max_pack: usize,
    max_body: usize,
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
            max: (config.max_message + stamp).min(longest_record(config) - record::HEADER),
            max_pack: longest_record(config) - record::HEADER,
            max_body: config.max_message,
        }
    }

    #[inline]
    fn matches(self, header: Header, channel: u32) -> bool {
        header.w1 as u16 == self.kind
            && header.origin() == channel
            && header.len() <= self.max
            && header.len() >= self.min
    }

    /// Whether this is a pack as senders make them.
    #[inline]
    fn is_pack(self, header: Header) -> bool {
        let is_allowed = |pack: Pack| header.len() <= self.max_pack && pack.body <= self.max_body;
        header.pack().is_some_and(is_allowed)
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

    /// A message, or a pack of them, to the lane's current channel.
    #[inline]
    pub(super) fn message(&mut self, slot: usize, record: LaneRecord) -> Result<Flow, Violation> {
        let Some(channel) = self.channel_of(slot, record.header)? else {
            return Ok(Flow::Done);
        };
        let record = super::sabotage::checked(record);
        let header = record.header.routed(channel, slot as u32);
        Ok(self.deliver(header, record.payload))
    }

    /// The channel of a message or pack, which is checked; None if it is no more, and nobody hears it.
    #[inline]
    fn channel_of(&mut self, slot: usize, header: Header) -> Result<Option<u32>, Violation> {
        let Some(id) = self.lanes[slot].context else {
            return Err(Violation);
        };
        if id.index != header.channel() || !self.is_message_valid(header) {
            return Err(Violation);
        }
        let lane = &mut self.lanes[slot];
        if lane.checked_at != self.removals {
            if !self.directory.view().is_current(id) {
                let messages = u64::from(header.messages());
                self.stats.messages += messages;
                self.stats.unheard += messages;
                return Ok(None);
            }
            lane.checked_at = self.removals;
        }
        Ok(Some(id.index))
    }

    /// A message to the lane's current channel whose body lies in the sender's slab, where it is read.
    #[cold]
    pub(super) fn placed(&mut self, slot: usize, record: LaneRecord) -> Result<Flow, Violation> {
        if record.header.len() != Placed::BYTES {
            return Err(Violation);
        }
        // SAFETY: the reader checked that the payload is there; each word is loaded once.
        let placed = unsafe { Placed::read(record.payload) };
        let span = self.lent.span(slot, placed).ok_or(Violation)?;
        let header = record.header.placed_message(span.len);
        // Smaller ones are none of a slab's: a queue counts on a message being longer than its place.
        if header.size() <= self.stage.longest() {
            return Err(Violation);
        }
        let channel = self.channel_of(slot, header)?;
        let flow = match channel.map(|channel| header.routed(channel, slot as u32)) {
            Some(header) => self.deliver_placed(header, span),
            None => Flow::Done,
        };
        if flow != Flow::Blocked {
            // Also if nobody hears it.
            let piece = placed.span().extent();
            self.lent.insert(slot, piece.first as usize);
            self.view.returns(slot).reaches(piece.end() as usize);
        }
        Ok(flow)
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
        let staged = self.stage.messages();
        let mut at = 0;
        while at + record::HEADER <= span {
            // SAFETY: a header lies in the span, 16-byte aligned like every position in a lane.
            let header = unsafe { Header::read(base.add(at)) };
            let size = header.size();
            let fits = at + size <= span && self.stage.has_room_for(size);
            let is_message = self.small.matches(header, id.index);
            let is_pack = || header.origin() == id.index && self.small.is_pack(header);
            if !fits || !(is_message || is_pack()) {
                break;
            }
            if let Some((limit, cut)) = limit {
                if !super::is_below(full_ticket(header.ticket(), cut), limit, cut) {
                    break;
                }
            }
            let routed = header.routed(id.index, slot as u32);
            let (from, left) = (base.wrapping_add(at), span - at);
            at += if is_message && header.is_packable() {
                self.stage.push_alike(from, left, header, routed)
            } else {
                self.stage.push(routed, from.wrapping_add(record::HEADER));
                size
            };
        }
        if at > 0 {
            self.stages_from(slot);
            self.lanes[slot].advance(at, self.stage.messages() - staged);
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
        if header.kind() == kind::PACK {
            return self.small.is_pack(header);
        }
        let timed = header.flags() & flags::TIMED != 0;
        let stamp = if timed { STAMP_BYTES } else { 0 };
        header.flags() & !flags::TIMED == 0
            && header.len() >= stamp
            && header.len() - stamp <= self.view.config.max_message
    }

    #[inline]
    fn deliver(&mut self, header: Header, payload: *const u8) -> Flow {
        let size = header.size();
        if size > self.stage.longest() {
            return self.deliver_large(header, payload);
        }
        if !self.stage.takes(header.channel(), size) && self.flush() == Flow::Blocked {
            return Flow::Blocked;
        }
        self.stages_from(header.slot() as usize);
        if header.kind() == kind::PACK {
            self.stage.push_pack(header, payload);
        } else {
            self.stage.push(header, payload);
        }
        Flow::Done
    }

    /// One message straight from the lane: into the arena, or to each queue.
    fn deliver_large(&mut self, header: Header, payload: *const u8) -> Flow {
        let (channel, bytes) = (header.channel(), header.size());
        if self.flush() == Flow::Blocked || self.is_blocked(channel, bytes) {
            return Flow::Blocked;
        }
        if self.lent.has(header.slot() as usize) && self.arena.is_worth_asking() {
            self.refresh_queues(); // so that its sender finds room in its slab again
        }
        let queues = self.subscriptions.rows().count(channel);
        let extent = is_worth_sharing(bytes, queues).then(|| self.claim(bytes));
        match extent.flatten() {
            Some(extent) => self.share_large(extent, header, payload),
            None => self.copy_large(header, payload),
        }
        self.account(1, queues > 0, bytes);
        Flow::Done
    }

    /// One message that stays where it is.
    fn deliver_placed(&mut self, header: Header, span: Span) -> Flow {
        let (channel, bytes) = (header.channel(), header.size());
        if self.flush() == Flow::Blocked || self.is_blocked(channel, bytes) {
            return Flow::Blocked;
        }
        let when = (self.stamp(), self.view.config.overflow);
        let payload = self.view.referable().0.wrapping_add(span.offset);
        let queues = self.subscriptions.rows().count(channel);
        self.append_each(channel, |queue, arena| {
            queue.append_placed((header, payload), span, when, arena)
        });
        self.stats.shared += 1;
        self.account(1, queues > 0, bytes);
        Flow::Done
    }

    fn share_large(&mut self, extent: Extent, header: Header, payload: *const u8) {
        let at = self.arena.at(extent.offset());
        // SAFETY: claimed for this record, whose length the lane's reader has checked. The sender may
        // misbehave and change the body meanwhile: it is then torn, the header is not.
        unsafe {
            header.write(at);
            record::copy(payload, at.add(record::HEADER), header.len());
        }
        let span = Span {
            offset: extent.offset(),
            len: header.size(),
        };
        let run = self.run_of(at, span.len, 1, Some(span));
        self.append(header.channel(), &run);
        self.stats.shared += 1;
        self.arena.unpin(extent);
    }

    fn copy_large(&mut self, header: Header, payload: *const u8) {
        let when = (self.stamp(), self.view.config.overflow);
        self.append_each(header.channel(), |queue, arena| {
            queue.append_apart((header, payload), when, arena)
        });
    }

    /// Appends the staged run to the queues of its channel.
    #[inline]
    pub(super) fn flush(&mut self) -> Flow {
        if self.stage.is_empty() {
            return Flow::Done;
        }
        let (channel, (records, bytes, messages)) = (self.stage.channel(), self.stage.run());
        if self.is_blocked(channel, bytes) {
            return Flow::Blocked;
        }
        let queues = self.subscriptions.rows().count(channel);
        let is_shared = is_worth_sharing(bytes, queues);
        let span = self.stage.span().filter(|_| is_shared);
        let run = self.run_of(records, bytes, messages, span);
        self.append(channel, &run);
        self.stats.shared += u64::from(span.is_some());
        self.stage.clear(span.is_some());
        if is_shared && !self.stage.has_room() {
            self.renew_stage();
        }
        let (lanes, touched) = (&mut self.lanes, &mut self.touched);
        self.staged.drain(|slot| {
            lanes[slot].staged = None;
            touched.insert(slot);
        });
        self.account(messages, queues > 0, bytes);
        self.publish_if_due();
        Flow::Done
    }

    fn run_of(&mut self, records: *const u8, bytes: usize, n: u32, span: Option<Span>) -> Run {
        Run {
            records,
            bytes,
            messages: n,
            span,
            now: self.stamp(),
            overflow: self.view.config.overflow,
        }
    }

    /// Appends a run to all queues of a channel.
    #[inline]
    fn append(&mut self, channel: u32, run: &Run) {
        self.append_each(channel, |queue, arena| queue.append(run, arena));
    }

    /// Appends something to each queue of a channel.
    #[inline]
    fn append_each(
        &mut self,
        channel: u32,
        append: impl Fn(&mut QueueWriter, &mut Arena) -> Appended,
    ) {
        let rows = *self.subscriptions.rows();
        rows.for_each(channel, |slot| {
            let appended = append(&mut self.queues[slot], &mut self.arena);
            self.stats.deliveries += u64::from(appended.taken);
            self.stats.lost += u64::from(appended.lost);
            self.dirty.insert(slot);
        });
    }

    /// The next runs go to a new chunk of the arena, or, if it has none, to the stage's own buffer.
    fn renew_stage(&mut self) {
        if let Some(old) = self.stage.give_up_chunk() {
            self.arena.unpin(old);
        }
        if let Some(chunk) = self.claim(self.stage.chunk_bytes()) {
            self.stage.take_chunk(chunk, self.arena.at(chunk.offset()));
        }
    }

    /// Room in the arena. When there is none, the queues are asked now and then what they have
    /// done with.
    fn claim(&mut self, bytes: usize) -> Option<Extent> {
        let mut claimed = self.arena.claim(bytes);
        if claimed.is_none() && self.arena.is_worth_asking() {
            self.refresh_queues();
            claimed = self.arena.claim(bytes);
        }
        self.stats.unshared += u64::from(claimed.is_none());
        claimed
    }

    /// Asks all queues what they have done with.
    fn refresh_queues(&mut self) {
        for queue in self.queues.iter_mut() {
            if queue.has_pins() {
                queue.refresh(&mut self.arena);
            }
        }
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
            let is_in_the_way =
                blocked.is_none() && !self.queues[slot].has_room(size, &mut self.arena);
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
