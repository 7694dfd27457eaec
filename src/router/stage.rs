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

/// Most bytes of a run: it fits into an empty queue.
fn longest_run(config: &Config) -> usize {
    OP_BYTES.min(config.queue_bytes / 2)
}

/// Longest record that is staged, bytes.
pub(super) fn longest_record(config: &Config) -> usize {
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
        (self.len, self.messages) = (0, 0);
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

    /// Adds a message; the caller has asked `takes`.
    #[inline]
    pub fn push(&mut self, header: Header, payload: *const u8) {
        let record = payload.wrapping_sub(record::HEADER);
        self.push_alike(record, header.size(), header, header);
    }

    /// Adds the record at `from`, whose header was loaded as `claimed` and is passed on as
    /// `routed`, and those behind it with the very same header, within `left` bytes. Returns the
    /// bytes taken; at least one record, for which the caller has asked `takes`.
    #[inline]
    pub fn push_alike(
        &mut self,
        from: *const u8,
        left: usize,
        claimed: Header,
        routed: Header,
    ) -> usize {
        let (size, payload) = (claimed.size(), round_up(claimed.len()));
        let limit = left.min(self.room - self.len);
        debug_assert!(size <= limit);
        let (mut at, mut messages) = (0, 0);
        // SAFETY: at + size <= limit: the record lies whole, with its padding, in the sender's lane
        // (checked by the lane's reader or the caller), and fits here: `room` bytes at `start` are
        // ours. Each header is loaded once.
        unsafe {
            let to = self.start.add(self.len);
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
