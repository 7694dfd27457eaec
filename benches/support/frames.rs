//! Frames on a byte stream: a 32-bit little-endian length, then the body.

use std::io::{self, Read};

/// Bytes of the length before each body.
pub const HEAD: usize = 4;
/// Largest read or write of the relay's processes.
pub const CHUNK: usize = 256 * 1024;

/// Appends to `out` a frame whose body of `size` bytes is written by `fill`.
#[inline]
pub fn put(out: &mut [u8], size: usize, fill: impl FnOnce(&mut [u8])) {
    let (head, body) = out.split_at_mut(HEAD);
    head.copy_from_slice(&(size as u32).to_le_bytes());
    fill(&mut body[..size]);
}

/// Received bytes, of which the front may be whole frames and the end a part of one.
///
/// Bytes are moved only when the buffer's end is reached, so a frame that arrives in two reads
/// costs no copy as a rule.
pub struct Inbox {
    bytes: Vec<u8>,
    /// Unconsumed bytes are `begin..end`.
    begin: usize,
    end: usize,
}

impl Inbox {
    /// A buffer for frames with bodies of at most `largest` bytes.
    pub fn new(largest: usize) -> Inbox {
        Inbox {
            bytes: vec![0; CHUNK + 2 * (HEAD + largest)],
            begin: 0,
            end: 0,
        }
    }

    /// One read from `source`; `Ok(0)` is the end of the stream.
    pub fn fill(&mut self, mut source: impl Read) -> io::Result<usize> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < CHUNK / 2 {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        let count = source.read(&mut self.bytes[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// Whether bytes of an unfinished frame are left.
    pub fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// Bytes of all whole frames that have arrived: every length is read, none passed on unseen.
    pub fn whole_frames(&self) -> usize {
        let bytes = &self.bytes[self.begin..self.end];
        let mut at = 0;
        while let Some(next) = frame_end(bytes, at) {
            at = next;
        }
        at
    }

    /// The first `count` unconsumed bytes.
    pub fn front(&self, count: usize) -> &[u8] {
        &self.bytes[self.begin..self.begin + count]
    }

    /// Takes the bodies of all whole frames that have arrived.
    #[inline]
    pub fn take_bodies<E>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = &self.bytes[self.begin..self.end];
        let mut at = 0;
        while let Some(next) = frame_end(bytes, at) {
            take(&bytes[at + HEAD..next])?;
            at = next;
        }
        self.consume(at);
        Ok(())
    }

    /// Drops `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        self.begin += count;
        debug_assert!(self.begin <= self.end);
    }
}

/// End of the frame that begins at `at`, if all of it is there.
#[inline]
fn frame_end(bytes: &[u8], at: usize) -> Option<usize> {
    let head = bytes.get(at..at + HEAD)?;
    let size = u32::from_le_bytes(head.try_into().expect("four bytes")) as usize;
    let end = at + HEAD + size;
    (end <= bytes.len()).then_some(end)
}
