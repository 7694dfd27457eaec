//! The router's end of a queue.

mod pins;
mod resume;

use super::{Control, ControlWord};
use crate::arena::{Arena, Span};
use crate::config::Overflow;
use crate::ledger::{self, Account};
use crate::record::{
    self, Header, Pack, Placed, SyncPayload, copy_records, kind, round_up, size_of_record,
};
use crate::region::Shared;
use pins::Pins;

/// Bytes that may precede a message in an empty buffer: a SYNC and a STAMP record.
pub(crate) const OVERHEAD: usize = size_of_record(SyncPayload::BYTES) + record::HEADER;

/// What became of records given to [`QueueWriter::append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    /// Messages now in the queue.
    pub taken: u32,
    /// Messages dropped and counted.
    pub lost: u32,
}

impl Appended {
    fn add(&mut self, other: Self) {
        self.taken += other.taken;
        self.lost += other.lost;
    }
}

/// Whole records on their way to the queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub records: *const u8,
    pub bytes: usize,
    /// How many messages they are.
    pub messages: u32,
    /// Where they lie, if it is the arena.
    pub span: Option<Span>,
    /// Their time, ns.
    pub now: u64,
    pub overflow: Overflow,
}

/// What a part of the back buffer holds.
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    bytes: usize,
    /// The same with what is referred to in the place of the references, bytes.
    weight: usize,
    messages: u32,
    /// Losses told by SYNC records in it: owed again if it is discarded.
    lost: u64,
}

/// What came of an attempt to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publication {
    /// Done; the core is awake or has no need to be.
    Quiet,
    /// Done; the core was armed and must be notified: by its eventfd, or as one that dozes.
    Notify { dozes: bool },
    /// The control word changes more often than a correct core can change it: not done.
    Refused,
}

/// Changes of the control word that one compare-and-swap puts up with: a core that has not been
/// notified can flip once and arm once.
const TRIES: usize = 8;

impl Content {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.weight += other.weight;
        self.messages += other.messages;
        self.lost += other.lost;
    }

    fn all_lost(self) -> u64 {
        u64::from(self.messages) + self.lost
    }
}

/// The router's private state of one queue: the truth, of which the control word is a copy.
#[derive(Debug)]
pub(crate) struct QueueWriter {
    word: Shared<ControlWord>,
    account: ledger::Entry,
    buffers: [*mut u8; 2],
    /// Bytes of one buffer.
    capacity: usize,
    /// Unread bytes accepted unless the buffer is empty; at most `capacity`.
    limit: usize,
    /// The control word as we last knew it.
    guess: Control,
    /// How often this queue was published or discarded; the control word has the low bits.
    publication: u64,
    /// The core cannot have done what its control word shows.
    is_damaged: bool,
    /// Bytes in the back buffer, published or not: `published.bytes <= tail <= capacity`. At most
    /// the weight of both.
    tail: usize,
    /// What the core may already see of the back buffer.
    published: Content,
    /// What it may not see yet.
    pending: Content,
    /// What the buffers refer to.
    pins: [Pins; 2],
    /// Bytes of the front, which the core may be reading; 0 when it has done with it.
    front: usize,
    /// Losses not yet told to the core.
    lost: u64,
    /// Messages that were in the queue and have been dropped for newer ones, not yet reported.
    discarded: u32,
    /// Operations of this core answered so far.
    pub ops_done: u64,
    /// A SYNC record must precede whatever is appended next.
    owes_sync: bool,
    /// The core must be notified when the pending bytes are published.
    wants_wake: bool,
    /// A record found no room; cleared when the core flips.
    full: bool,
    /// The stamp last written into the back buffer, ns; 0 for none.
    stamp: u64,
}

impl QueueWriter {
    /// The queue as the ledger has it after transaction `committed`; a queue that was never used if
    /// it has none.
    ///
    /// # Safety
    /// Both buffers are writable for `capacity` bytes, 16-byte aligned and outlive the writer;
    /// this process is the only one that writes them.
    pub unsafe fn new(
        word: Shared<ControlWord>,
        (account, committed): (Shared<Account>, u64),
        buffers: [*mut u8; 2],
        capacity: usize,
        limit: usize,
        arena: &mut Arena,
    ) -> Self {
        let (account, state) = ledger::Entry::open(account, committed);
        let mut new = Self {
            word,
            account,
            buffers,
            capacity,
            limit: limit.min(capacity),
            guess: Control::EMPTY,
            publication: 0,
            is_damaged: false,
            tail: 0,
            published: Content::default(),
            pending: Content::default(),
            pins: [const { Pins::new() }; 2],
            front: 0,
            lost: 0,
            discarded: 0,
            ops_done: 0,
            owes_sync: false,
            wants_wake: false,
            full: false,
            stamp: 0,
        };
        if let Some(state) = state {
            new.resume(state, arena);
        }
        new
    }

    /// Forgets everything, for the slot's next owner.
    pub fn reset(&mut self, arena: &mut Arena) {
        self.word.reset();
        self.pins.iter_mut().for_each(|pins| pins.release(arena));
        self.front = 0;
        self.guess = Control::EMPTY;
        (self.publication, self.is_damaged) = (0, false);
        self.back_is_empty();
        (self.lost, self.ops_done) = (0, 0);
        (self.owes_sync, self.wants_wake) = (false, false);
    }

    /// Appends a run of whole records: as a reference if the arena has them, else as a copy.
    #[inline]
    pub fn append(&mut self, run: &Run, arena: &mut Arena) -> Appended {
        if !self.takes(run.bytes) {
            // Before anything is taken apart: in parts a run needs more room.
            self.settle(arena);
            if !self.takes(run.bytes) {
                return self.append_slowly(run, arena);
            }
        }
        self.put(run, arena);
        Appended {
            taken: run.messages,
            lost: 0,
        }
    }

    /// Appends one message whose payload is elsewhere: in the sender's lane, or in a pack.
    pub fn append_apart(
        &mut self,
        (header, payload): (Header, *const u8),
        (now, overflow): (u64, Overflow),
        arena: &mut Arena,
    ) -> Appended {
        if !self.make_room(header.size(), overflow, arena) {
            return self.lose(1);
        }
        self.write_stamp(now);
        let at = self.at_tail();
        // SAFETY: make_room; the caller or the lane's reader checked that `len` bytes are readable. A
        // sender may misbehave and change them meanwhile: the body is then torn, the header is not.
        unsafe {
            header.write(at);
            record::copy(payload, at.add(record::HEADER), header.len());
        }
        self.took(header.size(), header.size(), 1);
        Appended {
            taken: 1,
            lost: std::mem::take(&mut self.discarded),
        }
    }

    /// Appends a message that is read where it lies, in its sender's slab, or a copy of it if nothing more
    /// can be referred to.
    pub fn append_placed(
        &mut self,
        (header, payload): (Header, *const u8),
        span: Span,
        when: (u64, Overflow),
        arena: &mut Arena,
    ) -> Appended {
        if !self.make_room(header.size(), when.1, arena) {
            return self.lose(1);
        }
        if self.pins[self.guess.index()].is_full() {
            return self.append_apart((header, payload), when, arena);
        }
        self.write_stamp(when.0);
        self.pins[self.guess.index()].push(arena, span.extent());
        let placed = Placed {
            offset: span.offset as u64,
            len: span.len as u64,
        };
        let size = size_of_record(Placed::BYTES);
        // SAFETY: make_room: there is more room than that, since no smaller message is placed.
        unsafe {
            let at = self.at_tail();
            header.message_placed().write(at);
            placed.write(at.add(record::HEADER));
        }
        self.took(size, header.size(), 1);
        Appended {
            taken: 1,
            lost: std::mem::take(&mut self.discarded),
        }
    }

    /// True when a message record of `size` bytes would be taken now without loss. Used by the
    /// blocking policy; if false, the core has been asked to ring when it flips.
    pub fn has_room(&mut self, size: usize, arena: &mut Arena) -> bool {
        if !self.full && self.fits(size + self.overhead()) {
            return true;
        }
        self.refresh(arena);
        self.full = self.full || !self.fits(size + self.overhead());
        !self.full
    }

    /// One operation of this core took effect here in its stream.
    pub fn op_done(&mut self, notify: bool) {
        self.ops_done += 1;
        self.owes_sync = true;
        self.wants_wake |= notify;
    }

    /// Writes the SYNC record that is owed, if there is room.
    pub fn settle(&mut self, arena: &mut Arena) {
        if !self.owes_sync || self.full {
            return;
        }
        let size = size_of_record(SyncPayload::BYTES);
        if !self.fits(size) {
            self.refresh(arena);
            self.full = !self.fits(size);
        }
        if !self.full {
            self.write_sync();
        }
    }

    /// True when the core's flip may let something go on here.
    pub fn waits_for_flip(&self) -> bool {
        self.owes_sync || self.full
    }

    /// True when the control word or the ledger shows what cannot be.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// True while the core has not flipped since a record found no room.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// True when something was appended, or is to be told, since the last publication.
    pub fn has_news(&self) -> bool {
        self.pending.bytes > 0
    }

    /// Publishes what was appended and [`Self::record`]ed.
    #[inline]
    pub fn publish(&mut self, arena: &mut Arena) -> Publication {
        let before = self.guess.index();
        for _ in 0..TRIES {
            let keep_armed = !self.wants_wake;
            let notify = self.guess.is_armed() && !keep_armed;
            let dozes = self.guess.is_dozing();
            match self.exchange(self.guess.published(self.tail, self.full, keep_armed)) {
                Ok(()) => {
                    self.published.add(std::mem::take(&mut self.pending));
                    self.pins[self.guess.index()].publish();
                    self.wants_wake = false;
                    if self.guess.index() != before {
                        self.settle_after_flip(arena);
                    }
                    return if notify {
                        Publication::Notify { dozes }
                    } else {
                        Publication::Quiet
                    };
                }
                Err(actual) => self.adopt(actual, arena),
            }
        }
        self.is_damaged = true;
        Publication::Refused
    }

    /// Counts a publication and makes the control word `next` with it, or tells what is there.
    #[inline]
    fn exchange(&mut self, next: Control) -> Result<(), Control> {
        let next = next.numbered(self.publication + 1);
        self.word.publish(self.guess, next)?;
        self.guess = next;
        self.publication += 1;
        Ok(())
    }

    /// A flip makes room for a SYNC that is owed: there is something to publish again.
    #[cold]
    fn settle_after_flip(&mut self, arena: &mut Arena) {
        self.settle(arena);
        self.wants_wake = self.has_news();
    }

    /// Learns whether the core has flipped.
    pub fn refresh(&mut self, arena: &mut Arena) {
        let actual = self.word.load();
        if actual != self.guess {
            self.adopt(actual, arena);
        }
    }

    /// True when it refers to something in the arena.
    pub fn has_pins(&self) -> bool {
        !self.pins.iter().all(Pins::is_empty)
    }

    /// Writes a run that `fits`, with the stamp that must precede it.
    #[inline]
    fn put(&mut self, run: &Run, arena: &mut Arena) {
        self.write_stamp(run.now);
        let pins = &mut self.pins[self.guess.index()];
        match run.span {
            Some(span) if !pins.is_full() => {
                pins.push(arena, span.extent());
                // SAFETY: as below; a reference is no longer than what it refers to.
                unsafe { Header::reference(span).write(self.at_tail()) };
                self.took(record::HEADER, run.bytes, run.messages);
            }
            _ => {
                // SAFETY: the caller has left room for the stamp and the records; the back buffer
                // beyond the published tail is ours (queue invariant). The source is the router's.
                unsafe { copy_records(run.records, self.at_tail(), run.bytes) };
                self.took(run.bytes, run.bytes, run.messages);
            }
        }
    }

    /// As much of a run as there is room for, message by message.
    fn append_slowly(&mut self, run: &Run, arena: &mut Arena) -> Appended {
        if run.messages == 1 {
            return self.append_one(run, arena);
        }
        let (mut at, mut sum) = (0, Appended { taken: 0, lost: 0 });
        while at < run.bytes {
            let records = run.records.wrapping_add(at);
            // SAFETY: the router's own run of whole records: at < bytes.
            let header = unsafe { Header::read(records) };
            sum.add(match header.pack() {
                Some(pack) => self.append_unpacked(header, pack, records, run, arena),
                None => {
                    let one = Run {
                        records,
                        bytes: header.size(),
                        messages: 1,
                        span: None,
                        ..*run
                    };
                    self.append_one(&one, arena)
                }
            });
            at += header.size();
        }
        sum
    }

    /// As many messages of the pack at `records` as there is room for.
    fn append_unpacked(
        &mut self,
        header: Header,
        pack: Pack,
        records: *const u8,
        run: &Run,
        arena: &mut Arena,
    ) -> Appended {
        let mut sum = Appended { taken: 0, lost: 0 };
        for i in 0..pack.count as usize {
            let body = records.wrapping_add(record::HEADER + i * pack.step);
            let message = (header.unpacked(), body);
            sum.add(self.append_apart(message, (run.now, run.overflow), arena));
        }
        sum
    }

    fn append_one(&mut self, run: &Run, arena: &mut Arena) -> Appended {
        if !self.make_room(run.bytes, run.overflow, arena) {
            return self.lose(1);
        }
        self.put(run, arena);
        Appended {
            taken: 1,
            lost: std::mem::take(&mut self.discarded),
        }
    }

    /// Room for a message record of `size` bytes and what must precede it.
    fn make_room(&mut self, size: usize, overflow: Overflow, arena: &mut Arena) -> bool {
        self.settle(arena);
        if self.takes(size) {
            return true;
        }
        self.refresh(arena);
        self.settle(arena);
        if self.takes(size) {
            return true;
        }
        self.full = true;
        if overflow != Overflow::DropOldest {
            return false;
        }
        self.discard_back(arena);
        self.settle(arena);
        self.takes(size)
    }

    #[inline]
    fn takes(&self, size: usize) -> bool {
        !self.owes_sync && !self.full && self.fits(size + record::HEADER)
    }

    /// Drops everything in the back buffer, published or not, counting it.
    fn discard_back(&mut self, arena: &mut Arena) {
        if self.published.bytes > 0 && !self.take_back(arena) {
            return;
        }
        self.discarded += self.published.messages + self.pending.messages;
        self.lost += self.published.all_lost() + self.pending.all_lost();
        self.owes_sync = true;
        self.wants_wake = true;
        self.pins[self.guess.index()].release(arena);
        self.back_is_empty();
    }

    /// Takes what the core has not yet taken out of its reach; false when it has just taken it.
    /// This is seen at once, before the operation is committed: the publication counted here tells
    /// a successor of it. Until the next one the core finds nothing, so it happens once at most.
    fn take_back(&mut self, arena: &mut Arena) -> bool {
        for _ in 0..TRIES {
            match self.exchange(self.guess.published(0, false, true)) {
                Ok(()) => return true,
                Err(actual) => {
                    self.adopt(actual, arena);
                    if self.tail == 0 || !self.full {
                        return false; // there is room again
                    }
                }
            }
        }
        self.is_damaged = true;
        false
    }

    /// Counts `n` messages as lost to this core.
    fn lose(&mut self, n: u32) -> Appended {
        self.lost += u64::from(n);
        self.owes_sync = true;
        self.wants_wake = true;
        let lost = n + std::mem::take(&mut self.discarded);
        Appended { taken: 0, lost }
    }

    fn fits(&self, bytes: usize) -> bool {
        let weight = self.published.weight + self.pending.weight;
        let end = weight + bytes;
        // A record larger than the limit is accepted by an empty buffer: `capacity` holds the
        // largest message with everything that can precede it.
        end <= self.limit || (weight <= OVERHEAD && end <= self.capacity)
    }

    fn overhead(&self) -> usize {
        if self.owes_sync {
            OVERHEAD
        } else {
            record::HEADER
        }
    }

    fn write_stamp(&mut self, now: u64) {
        if now == self.stamp {
            return;
        }
        // SAFETY: every caller left room for a stamp before the record it is about to write.
        unsafe { Header::stamp(now).write(self.at_tail()) };
        self.grew(record::HEADER, record::HEADER);
        self.stamp = now;
    }

    fn write_sync(&mut self) {
        let header = Header::new(kind::SYNC, 0, 0, SyncPayload::BYTES, 0);
        // SAFETY: settle() checked the room; the bytes beyond the published tail are ours.
        unsafe {
            let at = self.at_tail();
            header.write(at);
            let payload = at.add(record::HEADER).cast::<u64>();
            payload.write(self.lost);
            payload.add(1).write(self.ops_done);
        }
        let size = size_of_record(SyncPayload::BYTES);
        self.grew(size, size);
        self.pending.lost += std::mem::take(&mut self.lost);
        self.owes_sync = false;
    }

    #[inline]
    fn took(&mut self, bytes: usize, weight: usize, messages: u32) {
        debug_assert!(bytes == round_up(bytes) && bytes <= weight);
        self.grew(bytes, weight);
        self.pending.messages += messages;
        self.wants_wake = true;
    }

    #[inline]
    fn grew(&mut self, bytes: usize, weight: usize) {
        self.tail += bytes;
        self.pending.bytes += bytes;
        self.pending.weight += weight;
    }

    #[inline]
    fn at_tail(&self) -> *mut u8 {
        // SAFETY: tail <= capacity (invariant of `fits`), so this stays in the buffer.
        unsafe { self.buffers[self.guess.index()].add(self.tail) }
    }

    /// Takes over what the core has done to the control word. Only the index bit and the armed
    /// bit are believed: the tail is ours, whatever a misbehaving core wrote there.
    fn adopt(&mut self, actual: Control, arena: &mut Arena) {
        let (from, to) = (self.guess.index(), actual.index());
        if from != to {
            self.move_pending(to);
            // The core has given this buffer up, and what it refers to with it.
            self.pins[to].release(arena);
            let [a, b] = &mut self.pins;
            if to == 0 {
                b.move_pending(a);
            } else {
                a.move_pending(b);
            }
        }
        if actual.is_armed() {
            // It has found the front drained, and nothing it received before is borrowed any more.
            self.pins[to ^ 1].release(arena);
            self.front = 0;
        }
        self.guess = actual;
    }

    /// The core has flipped: what is pending goes to the other buffer, `to`.
    fn move_pending(&mut self, to: usize) {
        let from = self.buffers[to ^ 1].wrapping_add(self.published.bytes);
        // SAFETY: two distinct buffers; the pending bytes lie beyond the tail that the core may
        // read, and the core has given up the other buffer by flipping (Acquire on the CAS).
        unsafe { copy_records(from, self.buffers[to], self.pending.bytes) };
        self.front = self.published.bytes;
        self.tail = self.pending.bytes;
        self.published = Content::default();
        self.full = false;
    }

    fn back_is_empty(&mut self) {
        self.tail = 0;
        self.published = Content::default();
        self.pending = Content::default();
        self.full = false;
        // The stamp in the discarded bytes never reached the core.
        self.stamp = 0;
    }
}
