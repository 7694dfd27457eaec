//! The core's end of a queue.

use std::time::Duration;

use super::{Control, ControlWord, Flip};
use crate::arena::Span;
use crate::linger::{self, Linger};
use crate::notify;
use crate::record::{self, Header, Placed, STAMP_BYTES, SyncPayload, flags, kind};
use crate::region::Shared;

/// A message in the front buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub header: Header,
    /// `len` bytes, valid until the next flip.
    pub body: *const u8,
    pub len: usize,
    /// Nanoseconds since the epoch, 0 when off.
    pub stamp: u64,
}

/// What the stream holds next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received {
    Message(Raw),
    /// This many messages were lost here.
    Lost(u64),
    /// Nothing; the queue is armed.
    Empty,
    /// The front does not parse: the region is damaged. What was left of it is skipped.
    Damaged,
}

/// The unread rest of the front buffer: `at <= end`, both within it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    at: *const u8,
    end: *const u8,
    /// Time of the messages that follow, ns.
    stamp: u64,
    /// Bytes of the bodies at `at` that are left of the pack; 0 outside of packs.
    packed: usize,
    /// The header of that pack.
    pack: Header,
}

/// The header of no pack.
const NO_PACK: Header = Header { w0: 0, w1: 0 };

impl Front {
    /// The next body of the pack, if one with this `step` between bodies is left.
    #[inline]
    pub fn packed(&mut self, step: usize) -> Option<*const u8> {
        if self.packed < step {
            return None;
        }
        let body = self.at;
        self.at = self.at.wrapping_add(step);
        self.packed -= step;
        Some(body)
    }

    /// The next message of the pack.
    fn next_packed(&mut self) -> Option<Raw> {
        if self.packed == 0 {
            return None;
        }
        let header = self.pack;
        let pack = header.pack()?;
        Some(Raw {
            header,
            body: self.packed(pack.step)?,
            len: pack.body,
            stamp: self.stamp,
        })
    }

    /// The first message of the pack at the read position, which lies there whole; None if that is
    /// no pack.
    fn enter(&mut self, header: Header) -> Option<Raw> {
        header.pack()?;
        self.at = self.at.wrapping_add(record::HEADER);
        (self.pack, self.packed) = (header, header.len());
        self.next_packed()
    }

    /// The body of the next item, if that has just this `header`, of a message without a stamp of
    /// its own, and so this `size`: most streams consist of messages that differ in nothing else.
    #[inline]
    pub fn alike(&mut self, header: Header, size: usize) -> Option<*const u8> {
        debug_assert!(
            self.packed == 0 || size == usize::MAX,
            "a body is no header"
        );
        let left = self.end as usize - self.at as usize;
        // SAFETY: `size` is that of a record, so a header is left in the front, which is ours until
        // we flip.
        if left < size || unsafe { Header::read(self.at) } != header {
            return None;
        }
        let body = self.at.wrapping_add(record::HEADER);
        self.at = self.at.wrapping_add(size);
        Some(body)
    }

    /// Time of the messages that follow, ns.
    #[inline]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The next item, if it is an unstamped message of the given origin, or a pack of such: what most
    /// calls find. Its bytes stay valid until the next flip.
    #[inline]
    pub fn plain(&mut self, origin: u32) -> Option<Raw> {
        let left = self.end as usize - self.at as usize;
        if left < record::HEADER || self.packed > 0 {
            return None;
        }
        // SAFETY: a header is left in the front, which is ours until we flip.
        let header = unsafe { Header::read(self.at) };
        let size = header.size();
        if header.origin() != origin || size > left {
            return None;
        }
        if !header.is_plain_message() {
            return self.enter(header);
        }
        let body = self.at.wrapping_add(record::HEADER);
        self.at = self.at.wrapping_add(size);
        Some(Raw {
            header,
            body,
            len: header.len(),
            stamp: self.stamp,
        })
    }

    fn is_drained(self) -> bool {
        self.at == self.end
    }

    /// The header at the read position, if a whole record is there.
    fn header(self) -> Option<Header> {
        let left = self.end as usize - self.at as usize;
        if left < record::HEADER {
            return None;
        }
        // SAFETY: a header is left in the front, which is ours until we flip.
        let header = unsafe { Header::read(self.at) };
        (header.size() <= left).then_some(header)
    }
}

/// The core's private state of its queue.
#[derive(Debug)]
pub(crate) struct QueueReader {
    word: Shared<ControlWord>,
    buffers: [*const u8; 2],
    capacity: usize,
    /// Start and length of the arena, the slabs included.
    arena: (*const u8, usize),
    front: Front,
    /// The rest of the front buffer while `front` is what it refers to: `at <= end`.
    outer: (*const u8, *const u8),
    /// Operations of ours that took effect before this place of the stream.
    ops_done: u64,
    /// Buffers taken so far.
    flips: u64,
    linger: Linger,
}

/// A place in the stream: buffers taken, and an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(u64, usize);

impl QueueReader {
    /// Where in the stream this is: another place whenever something has been received.
    pub fn place(&self) -> Place {
        Place(self.flips, self.front.at.addr())
    }

    /// # Safety
    /// Both buffers are readable for `capacity` bytes and the arena for its length, 16-byte aligned,
    /// and outlive the reader; this is the only reader of the queue.
    pub unsafe fn new(
        word: Shared<ControlWord>,
        buffers: [*const u8; 2],
        capacity: usize,
        arena: (*const u8, usize),
    ) -> Self {
        let front = buffers[word.load().index() ^ 1];
        Self {
            word,
            buffers,
            capacity,
            arena,
            outer: (front, front),
            front: Front {
                at: front,
                end: front,
                stamp: 0,
                packed: 0,
                pack: NO_PACK,
            },
            ops_done: 0,
            flips: 0,
            linger: Linger::default(),
        }
    }

    /// Operations of this core that took effect before this place of the stream.
    #[inline]
    pub fn ops_done(&self) -> u64 {
        self.ops_done
    }

    /// The unread rest of the front, for the caller to go on with, or to put back after it has
    /// worked on a copy.
    #[inline]
    pub fn front_mut(&mut self) -> &mut Front {
        &mut self.front
    }

    /// Undoes the taking of the last message.
    #[inline]
    pub fn put_back(&mut self, raw: Raw) {
        let (bytes, packed) = match raw.header.pack() {
            Some(pack) => (pack.step, pack.step),
            None => (raw.header.size(), 0),
        };
        self.front.at = self.front.at.wrapping_sub(bytes);
        self.front.packed += packed;
    }

    /// The next message, if the front holds one before its end and before a loss.
    pub fn next_in_front(&mut self) -> Option<Raw> {
        loop {
            if self.front.is_drained() && !self.step_out() {
                return None;
            }
            let before = (self.front, self.outer);
            match self.take() {
                None => {}
                Some(Received::Message(raw)) => return Some(raw),
                Some(_) => {
                    // The next call comes across it again, and tells.
                    (self.front, self.outer) = before;
                    return None;
                }
            }
        }
    }

    /// The next item. A message's bytes stay valid until the next call. `on_full` runs when a
    /// flip made room that the router waits for.
    pub fn next(&mut self, on_full: impl Fn()) -> Received {
        loop {
            if self.front.is_drained() && !self.step_out() && !self.refill(&on_full) {
                return Received::Empty;
            }
            if let Some(received) = self.take() {
                return received;
            }
        }
    }

    /// Takes one record; None when it says nothing to the caller.
    fn take(&mut self) -> Option<Received> {
        if let Some(raw) = self.front.next_packed() {
            return Some(Received::Message(raw));
        }
        let Some(header) = self.front.header() else {
            self.front.at = self.front.end;
            return Some(Received::Damaged);
        };
        if let Some(raw) = self.front.enter(header) {
            return Some(Received::Message(raw));
        }
        let payload = self.front.at.wrapping_add(record::HEADER);
        self.front.at = self.front.at.wrapping_add(header.size());
        if header.kind() == kind::MESSAGE {
            return Some(self.message(header, payload, header.len()));
        }
        self.control(header, payload)
    }

    /// What was referred to is drained: back to the rest of the buffer, if there is any.
    fn step_out(&mut self) -> bool {
        let (at, end) = self.outer;
        (self.front.at, self.front.end, self.outer.0) = (at, end, end);
        at != end
    }

    /// Goes on with what a reference refers to.
    fn step_in(&mut self, span: Span) -> Option<Received> {
        let start = self.find(span);
        if start.is_none() || self.outer.0 != self.outer.1 {
            return Some(Received::Damaged);
        }
        self.outer = (self.front.at, self.front.end);
        self.front.at = start?;
        self.front.end = self.front.at.wrapping_add(span.len);
        None
    }

    /// Where a span is; None if it lies neither in the arena nor in the slabs.
    fn find(&self, span: Span) -> Option<*const u8> {
        let (start, len) = self.arena;
        let is_inside = span.offset <= len && span.len <= len - span.offset;
        is_inside.then(|| start.wrapping_add(span.offset))
    }

    /// The message whose payload lies elsewhere.
    fn placed(&self, header: Header, payload: *const u8) -> Received {
        // SAFETY: take() checked that the record, and so these bytes, lie in the front.
        let span = unsafe { Placed::read(payload) }.span();
        match self.find(span) {
            Some(payload) if span.offset % record::ALIGN == 0 => {
                self.message(header, payload, span.len)
            }
            _ => Received::Damaged,
        }
    }

    /// How long to wait for more, at an empty queue that is not armed, before it is armed.
    pub fn set_linger(&mut self, limit: Duration) {
        self.linger = Linger::of(limit, linger::OFTEN);
    }

    /// Sleeps until something has been published, at most `limit`, at an empty queue that is armed. May
    /// return early; false when nobody has notified it.
    pub fn doze(&self, limit: Duration) -> bool {
        let Some(seen) = self.word.doze() else {
            return true;
        };
        // SAFETY: the word stays mapped as long as the reader.
        unsafe { notify::futex_wait_at(self.word.futex(), seen.low(), limit) };
        !self.word.rise()
    }

    fn refill(&mut self, on_full: impl Fn()) -> bool {
        if self.linger.is_on() {
            let now = self.word.load();
            if now.tail() == 0 && !now.is_armed() {
                let word = self.word;
                self.linger.wait(|| word.load().tail() != 0);
            }
        }
        match self.word.flip_or_arm() {
            Flip::Armed => false,
            Flip::Flipped(old) => {
                self.take_front(old);
                self.flips += 1;
                if old.is_full() {
                    on_full();
                }
                true
            }
        }
    }

    fn take_front(&mut self, old: Control) {
        self.front.at = self.buffers[old.index()];
        // The router is trusted; the bound still costs nothing and keeps damage harmless.
        self.front.end = self.front.at.wrapping_add(old.tail().min(self.capacity));
        self.outer = (self.front.end, self.front.end);
    }

    /// A message with `len` bytes of payload, which are there.
    fn message(&self, header: Header, payload: *const u8, mut len: usize) -> Received {
        let (mut body, mut stamp) = (payload, self.front.stamp);
        if header.flags() & flags::TIMED != 0 {
            if len < STAMP_BYTES {
                return Received::Damaged;
            }
            // SAFETY: 8 aligned bytes of the payload. A sender may misbehave and change what is in its slab.
            stamp = unsafe { payload.cast::<u64>().read_volatile() };
            body = payload.wrapping_add(STAMP_BYTES);
            len -= STAMP_BYTES;
        }
        Received::Message(Raw {
            header,
            body,
            len,
            stamp,
        })
    }

    fn control(&mut self, header: Header, payload: *const u8) -> Option<Received> {
        match header.kind() {
            kind::STAMP => {
                self.front.stamp = header.stamp_nanos();
                None
            }
            kind::SYNC if header.len() == SyncPayload::BYTES => {
                // SAFETY: the record lies in the front (take()) and holds two aligned words.
                let (lost, ops_done) = unsafe {
                    let words = payload.cast::<u64>();
                    (words.read(), words.add(1).read())
                };
                self.ops_done = ops_done;
                (lost > 0).then_some(Received::Lost(lost))
            }
            kind::REFERENCE => self.step_in(header.span()),
            kind::PLACED if header.len() == Placed::BYTES => Some(self.placed(header, payload)),
            _ => Some(Received::Damaged),
        }
    }
}
