//! The core's end of a queue.

use super::{Control, ControlWord, Flip};
use crate::record::{self, Header, STAMP_BYTES, SyncPayload, flags, kind};
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

/// The core's private state of its queue.
#[derive(Debug)]
pub(crate) struct QueueReader {
    word: Shared<ControlWord>,
    buffers: [*const u8; 2],
    capacity: usize,
    /// Which buffer is the front.
    front: usize,
    /// Bytes of the front: read, published to us. `read <= end <= capacity`.
    read: usize,
    end: usize,
    /// Time of the messages that follow, ns.
    stamp: u64,
    /// Operations of ours that took effect before this place of the stream.
    ops_done: u64,
}

impl QueueReader {
    /// # Safety
    /// Both buffers are readable for `capacity` bytes, 16-byte aligned, outlive the reader, and
    /// this is the only reader of the queue.
    pub unsafe fn new(word: Shared<ControlWord>, buffers: [*const u8; 2], capacity: usize) -> Self {
        let front = word.load().index() ^ 1;
        Self {
            word,
            buffers,
            capacity,
            front,
            read: 0,
            end: 0,
            stamp: 0,
            ops_done: 0,
        }
    }

    /// Operations of this core that took effect before this place of the stream.
    #[inline]
    pub fn ops_done(&self) -> u64 {
        self.ops_done
    }

    /// The next item. A message's bytes stay valid until the next call. `on_full` runs when a
    /// flip made room that the router waits for.
    #[inline]
    pub fn next(&mut self, on_full: impl Fn()) -> Received {
        if self.read == self.end && !self.refill(&on_full) {
            return Received::Empty;
        }
        loop {
            let Some(header) = self.header() else {
                self.read = self.end;
                return Received::Damaged;
            };
            let at = self.read;
            self.read += header.size();
            if header.kind() == kind::MESSAGE {
                return self.message(header, at);
            }
            if let Some(received) = self.control(header, at) {
                return received;
            }
            if self.read == self.end && !self.refill(&on_full) {
                return Received::Empty;
            }
        }
    }

    #[inline]
    fn refill(&mut self, on_full: impl Fn()) -> bool {
        match self.word.flip_or_arm() {
            Flip::Armed => false,
            Flip::Flipped(old) => {
                self.take_front(old);
                if old.is_full() {
                    on_full();
                }
                true
            }
        }
    }

    fn take_front(&mut self, old: Control) {
        self.front = old.index();
        self.read = 0;
        // The router is trusted; the bound still costs nothing and keeps damage harmless.
        self.end = old.tail().min(self.capacity);
    }

    /// The header at the read position, if a whole record is there.
    #[inline]
    fn header(&self) -> Option<Header> {
        let left = self.end - self.read;
        if left < record::HEADER {
            return None;
        }
        // SAFETY: read + 16 <= end <= capacity; the front is ours until we flip.
        let header = unsafe { Header::read(self.buffers[self.front].add(self.read)) };
        (header.size() <= left).then_some(header)
    }

    #[inline]
    fn message(&self, header: Header, at: usize) -> Received {
        // SAFETY: header() checked that the whole record lies in the front.
        let payload = unsafe { self.buffers[self.front].add(at + record::HEADER) };
        if header.flags() & flags::TIMED == 0 {
            return Received::Message(Raw {
                header,
                body: payload,
                len: header.len(),
                stamp: self.stamp,
            });
        }
        let Some(len) = header.len().checked_sub(STAMP_BYTES) else {
            return Received::Damaged;
        };
        // SAFETY: at least 8 bytes of payload, 16-byte aligned.
        unsafe {
            Received::Message(Raw {
                header,
                body: payload.add(STAMP_BYTES),
                len,
                stamp: payload.cast::<u64>().read(),
            })
        }
    }

    fn control(&mut self, header: Header, at: usize) -> Option<Received> {
        match header.kind() {
            kind::STAMP => {
                self.stamp = header.stamp_nanos();
                None
            }
            kind::SYNC if header.len() == SyncPayload::BYTES => {
                // SAFETY: the record lies in the front (header()) and holds two aligned words.
                let (lost, ops_done) = unsafe {
                    let words = self.buffers[self.front]
                        .add(at + record::HEADER)
                        .cast::<u64>();
                    (words.read(), words.add(1).read())
                };
                self.ops_done = ops_done;
                (lost > 0).then_some(Received::Lost(lost))
            }
            _ => Some(Received::Damaged),
        }
    }
}
