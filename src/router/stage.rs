//! The stage: where a run of small messages to one channel is put together, header by header.
//!
//! It is a piece of the arena, so that the queues can refer to the run where it lies, or, until the
//! traffic is worth that, a buffer of the router's own. A run that was copied to the queues is
//! overwritten by the next; one that is referred to stays where it is until they have done with it.

use super::OP_BYTES;
use crate::arena::{Extent, Span};
use crate::config::Config;
use crate::memory::{Block, Memory};
use crate::record::{self, Header, round_up};

/// How far ahead a run asks for the cache lines of the lane, bytes: another processor had them.
const AHEAD: usize = 512;
/// Runs begin on a cache line of their own.
const LINE: usize = 64;
/// Ends nowhere.
const NO_PACK: (Header, usize, usize) = (Header { w0: 0, w1: 0 }, 0, usize::MAX);

/// Most bytes of a run: it fits into an empty queue.
fn longest_run(config: &Config) -> usize {
    OP_BYTES.min(config.queue_bytes / 2)
}

/// Longest record that is staged, and longest pack that a sender may publish, bytes.
pub(crate) fn longest_record(config: &Config) -> usize {
    longest_run(config) / 4
}

/// A run of small messages to one channel, ready for the queues.
#[derive(Debug)]
pub(super) struct Stage {
    /// 16-byte aligned by its element type.
    own: Block<u128>,
    /// The piece of the arena that is used up run by run.
    chunk: Option<Extent>,
    /// Bytes of it used up.
    used: usize,
    /// Where the run begins: in the chunk or in `own`.
    start: *mut u8,
    /// Bytes that it can have there; at least `longest`.
    room: usize,
    longest: usize,
    /// Bytes and messages in it.
    len: usize,
    messages: u32,
    channel: u32,
    /// The last record, if it is a pack: its header, where it is, and where it ends.
    pack: (Header, usize, usize),
}

impl Stage {
    pub fn new(config: &Config, memory: Memory) -> Self {
        let mut own: Block<u128> = Block::zeroed(memory, longest_run(config) / size_of::<u128>());
        Self {
            start: own.as_mut_ptr().cast(),
            room: size_of_val(&*own),
            own,
            chunk: None,
            used: 0,
            longest: longest_record(config),
            len: 0,
            messages: 0,
            channel: 0,
            pack: NO_PACK,
        }
    }

    /// Bytes that it takes of a pool, at most.
    pub fn footprint() -> usize {
        Block::<u128>::footprint(OP_BYTES / size_of::<u128>())
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The channel of the run.
    pub fn channel(&self) -> u32 {
        self.channel
    }

    /// The run: where it is, bytes, messages.
    pub fn run(&self) -> (*const u8, usize, u32) {
        (self.start, self.len, self.messages)
    }

    /// Messages in the run.
    #[inline]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Where the arena has the run.
    pub fn span(&self) -> Option<Span> {
        self.chunk.map(|chunk| Span {
            offset: chunk.offset() + self.used,
            len: self.len,
        })
    }

    /// Longest record that it takes, bytes.
    #[inline]
    pub fn longest(&self) -> usize {
        self.longest
    }

    #[inline]
    pub fn takes(&self, channel: u32, size: usize) -> bool {
        self.len == 0 || (channel == self.channel && self.has_room_for(size))
    }

    #[inline]
    pub fn has_room_for(&self, size: usize) -> bool {
        self.len + size <= self.room
    }

    /// The run has been appended to the queues, which refer to it if it `stays`.
    pub fn clear(&mut self, stays: bool) {
        if stays {
            let taken = self.len.next_multiple_of(LINE);
            self.used += taken;
            self.start = self.start.wrapping_add(taken);
            let left = self.chunk_bytes().saturating_sub(self.used);
            self.room = left.min(size_of_val(&*self.own));
        }
        (self.len, self.messages, self.pack) = (0, 0, NO_PACK);
    }

    /// False when it is time for another chunk: there is none, or it is used up.
    pub fn has_room(&self) -> bool {
        self.chunk.is_some() && self.room >= self.longest
    }

    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> usize {
        2 * OP_BYTES
    }

    /// Goes back to the buffer of its own. The chunk is no longer the stage's.
    pub fn give_up_chunk(&mut self) -> Option<Extent> {
        debug_assert!(self.is_empty());
        self.start = self.own.as_mut_ptr().cast();
        self.room = size_of_val(&*self.own);
        self.chunk.take()
    }

    /// The next runs go to `chunk`, which is at `start`.
    pub fn take_chunk(&mut self, chunk: Extent, start: *mut u8) {
        debug_assert!(self.is_empty() && chunk.bytes() >= self.chunk_bytes());
        (self.chunk, self.used, self.start) = (Some(chunk), 0, start);
    }

    /// Adds a message or a pack; the caller has asked `takes`.
    #[inline]
    pub fn push(&mut self, header: Header, payload: *const u8) {
        debug_assert!(self.has_room_for(header.size()));
        // SAFETY: the payload lies in the sender's lane, with its padding (checked by the lane's
        // reader), and fits here: `room` bytes at `start` are ours.
        unsafe {
            let to = self.start.add(self.len);
            header.write(to);
            record::copy_records(payload, to.add(record::HEADER), round_up(header.len()));
        }
        self.took(header, header.size(), header.messages());
    }

    /// Adds a pack; the caller has asked `takes`. Packs alike, one behind the other, become one.
    pub fn push_pack(&mut self, header: Header, payload: *const u8) {
        let (last, at, end) = self.pack;
        if end != self.len || last.with_len(0) != header.with_len(0) {
            let at = self.len;
            self.push(header, payload);
            self.pack = (header, at, self.len);
            return;
        }
        debug_assert!(self.has_room_for(header.len()));
        let grown = last.with_len(last.len() + header.len());
        // SAFETY: as in `push`; the pack's header is at `at`, and nobody refers to the run yet.
        unsafe {
            grown.write(self.start.add(at));
            record::copy_records(payload, self.start.add(end), header.len());
        }
        self.took(header, header.len(), header.messages());
        self.pack = (grown, at, self.len);
    }

    /// Adds the message at `from`, whose header was loaded as `claimed` and is passed on as
    /// `routed`, and those behind it with the very same header, within `left` bytes, as a pack.
    /// Returns the bytes taken; at least one record, for which the caller has asked `takes`.
    #[inline]
    pub fn push_alike(
        &mut self,
        from: *const u8,
        left: usize,
        claimed: Header,
        routed: Header,
    ) -> usize {
        debug_assert!(routed.is_packable() && claimed.size() <= left);
        debug_assert!(self.has_room_for(claimed.size()));
        let size = claimed.size();
        let payload = size - record::HEADER;
        let room = self.room - self.len - record::HEADER;
        // SAFETY: the record lies whole, with its padding, in the sender's lane (checked by the lane's
        // reader or the caller), as do the `left` bytes; `room` bytes at `start` are ours.
        let (read, messages) = unsafe {
            let to = self.start.add(self.len);
            let bodies = to.add(record::HEADER);
            // The commonest length as a constant: its loop has a third fewer instructions.
            let read = if payload == record::ALIGN {
                copy_alike((from, left), (bodies, room), claimed, record::ALIGN)
            } else {
                copy_alike((from, left), (bodies, room), claimed, payload)
            };
            // In 32 bits, which divide faster.
            let messages = read as u32 / size as u32;
            let header = if messages == 1 {
                routed
            } else {
                routed.packed(messages as usize * payload)
            };
            header.write(to);
            (read, messages)
        };
        let written = record::HEADER + messages as usize * payload;
        self.took(routed, written, messages);
        read
    }

    #[inline]
    fn took(&mut self, header: Header, bytes: usize, messages: u32) {
        self.channel = header.channel();
        self.len += bytes;
        self.messages += messages;
    }
}

/// Copies the body of the record at `from`, `payload` bytes with its padding, and those of the records
/// behind it with the very same header, to `to`. Returns the bytes read, at least of one record.
///
/// # Safety
/// So many bytes are readable and writable there, the first record is whole and its body fits, and all
/// positions are multiples of 16.
#[inline(always)]
unsafe fn copy_alike(
    (from, left): (*const u8, usize),
    (to, room): (*mut u8, usize),
    claimed: Header,
    payload: usize,
) -> usize {
    let size = record::HEADER + payload;
    let (last, full) = (left - size, room - payload);
    let (mut read, mut written) = (0, 0);
    // SAFETY: read <= last and written <= full: record and body lie in what the caller vouches for.
    // Each header is loaded once.
    unsafe {
        loop {
            let body = from.add(read + record::HEADER);
            record::copy_records(body, to.add(written), payload);
            (read, written) = (read + size, written + payload);
            if read > last || written > full || Header::read(from.add(read)) != claimed {
                return read;
            }
            if read + AHEAD < left {
                record::prefetch_read(from.wrapping_add(read + AHEAD));
            }
        }
    }
}
