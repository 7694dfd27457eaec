//! Receiving.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::wait::LOOK;
use super::{Core, Message, Sender, ring};
use crate::directory::ChannelId;
use crate::error::RecvError;
use crate::queue::{Front, Raw, Received};
use crate::record::{Header, full_ticket};

/// An origin that no message has: slot 4,095 does not exist.
const NOWHERE: u32 = u32::MAX;
/// The header of no message, for the same reason.
const NOTHING: Header = Header {
    w0: u64::MAX,
    w1: u64::MAX,
};

/// Channel and sender of a message, resolved: most messages come from where the last came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// [`Header::origin`] that the rest belongs to.
    pub key: u32,
    /// The last message's header, if it came from here, by itself, and has no stamp of its own.
    last: Header,
    /// Bytes of its record.
    size: usize,
    /// Bytes from one body to the next, if the last message was in a pack and came from here.
    step: usize,
    /// Bytes of its body, in both cases.
    len: usize,
    channel: ChannelId,
    /// Not null to the compiler either: it would look at it for each message of a loop.
    name: NonNull<u8>,
    name_len: usize,
    sender: Sender,
}

impl Origin {
    pub fn unknown() -> Self {
        Self {
            key: NOWHERE,
            last: NOTHING,
            size: usize::MAX,
            step: usize::MAX,
            len: 0,
            channel: ChannelId::default(),
            name: NonNull::dangling(),
            name_len: 0,
            sender: Sender::default(),
        }
    }

    /// The next message of the front, if it is in the last one's pack, or its header is the last one's.
    #[inline]
    pub fn next_alike(&self, front: &mut Front) -> Option<Raw> {
        let body = match front.packed(self.step) {
            Some(body) => body,
            None => front.alike(self.last, self.size)?,
        };
        Some(Raw {
            header: self.last,
            body,
            len: self.len,
            stamp: front.stamp(),
        })
    }

    /// Remembers the last message's header, or that it is not one to compare with.
    #[inline]
    pub fn saw(&mut self, header: Header) {
        (self.last, self.size, self.step) = (NOTHING, usize::MAX, usize::MAX);
        if header.origin() != self.key {
            return;
        }
        if header.is_plain_message() {
            (self.last, self.size, self.len) = (header, header.size(), header.len());
        } else if let Some(pack) = header.pack() {
            (self.step, self.len) = (pack.step, pack.body);
        }
    }

    /// A message that came from here.
    ///
    /// # Safety
    /// Body and name stay as they are during `'a`.
    #[inline]
    pub unsafe fn message<'a>(&self, raw: Raw, ticket: u64) -> Message<'a> {
        // SAFETY: the reader checked that the body lies in the front buffer, the name lies in the
        // region; the caller's contract.
        let (name, body) = unsafe {
            (
                std::slice::from_raw_parts(self.name.as_ptr(), self.name_len),
                std::slice::from_raw_parts(raw.body, raw.len),
            )
        };
        Message {
            channel: self.channel,
            name,
            body,
            sender: self.sender,
            ticket,
            timestamp: raw.stamp,
        }
    }
}

impl Core {
    /// The next message, in place. None: there is nothing, *and* the notification is armed: the
    /// core's descriptor becomes readable (an edge) when something arrives. Never waits, unless
    /// [`Self::set_linger`] says so.
    ///
    /// # Errors
    /// [`RecvError::Lagged`] tells of losses at their place in the stream; go on calling. See
    /// [`RecvError`] for the others.
    #[inline]
    pub fn recv(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        self.check()?;
        // The origin is unknown while messages of left channels must be filtered out. One place
        // makes the message, from values in registers: two would meet in memory, and reading
        // back what was just written piecemeal costs more than all the rest.
        let raw = match self.origin.next_alike(self.queue.front_mut()) {
            Some(raw) => raw,
            None => match self.next_unlike()? {
                Some(raw) => raw,
                None => return Ok(None),
            },
        };
        // SAFETY: the front buffer is ours until the next call flips; this core is subscribed to
        // the channel (messages of one it has left are filtered), so the router does not recycle
        // it while the message is borrowed: receiving and leaving need `&mut self`.
        Ok(Some(unsafe { self.origin.message(raw, self.seen_ticket) }))
    }

    /// A message whose header is not the last one's.
    #[inline(never)]
    fn next_unlike(&mut self) -> Result<Option<Raw>, RecvError> {
        let raw = match self.queue.front_mut().plain(self.origin.key) {
            Some(raw) => Some(raw),
            None => self.next()?,
        };
        if let Some(raw) = raw {
            self.note(raw.header);
        }
        Ok(raw)
    }

    /// [`Self::recv`], waiting up to `timeout`. It sleeps on a word in shared memory: one system call, and
    /// the descriptor is left alone.
    ///
    /// # Errors
    /// As for [`Self::recv`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message<'_>>, RecvError> {
        self.check()?;
        let raw = match self.next()? {
            Some(raw) => raw,
            None => match self.doze(timeout)? {
                Some(raw) => raw,
                None => return Ok(None),
            },
        };
        self.note(raw.header);
        // SAFETY: as in `recv`.
        Ok(Some(unsafe { self.origin.message(raw, self.seen_ticket) }))
    }

    /// The next message, which may still be to come, within `timeout`.
    fn doze(&mut self, timeout: Duration) -> Result<Option<Raw>, RecvError> {
        if timeout.is_zero() {
            return Ok(None);
        }
        let (start, mut left) = (Instant::now(), timeout);
        while !left.is_zero() {
            let was_notified = self.queue.doze(left.min(LOOK));
            if !was_notified && !self.master_is_alive() {
                return Err(RecvError::MasterGone);
            }
            if let Some(raw) = self.next()? {
                return Ok(Some(raw));
            }
            left = timeout.saturating_sub(start.elapsed());
        }
        Ok(None)
    }

    /// How long [`Self::recv`], [`Self::recv_many`] and [`Self::recv_timeout`] may wait at an empty
    /// queue for more before they arm the notification and say that there is nothing; zero (never) at
    /// first, more than 10 ms count as that. While they wait, others can use the processor.
    ///
    /// For threads that have nothing else to do: being woken from sleep on another processor takes
    /// tens of microseconds of somebody's time, so that 50 to 200 µs save more than they cost while
    /// messages stream. Where they come singly it costs little either: a wait in vain is not tried
    /// again before twice as many sleeps, up to 64; nor, where others keep the processors busy, before
    /// hundreds. Not for event loops: their other events would wait as long, nor for the thread that
    /// drives the master.
    pub fn set_linger(&mut self, limit: Duration) {
        self.queue.set_linger(limit);
    }

    /// Takes what is in the queue, for nobody.
    pub(super) fn drop_received(&mut self) {
        while !matches!(self.next(), Ok(None) | Err(RecvError::MasterGone)) {}
    }

    /// The next message that has not been left meanwhile; its origin is looked up.
    #[inline(never)]
    pub(super) fn next(&mut self) -> Result<Option<Raw>, RecvError> {
        loop {
            let (hub, slot) = (&self.hub, self.slot);
            match self.queue.next(|| ring(hub, slot)) {
                Received::Message(raw) => {
                    if self.is_wanted(raw) {
                        return Ok(Some(raw));
                    }
                }
                Received::Lost(n) => {
                    self.lost += n;
                    return Err(RecvError::Lagged(n));
                }
                Received::Empty => return self.empty(),
                Received::Damaged => return Err(RecvError::Damaged),
            }
        }
    }

    /// The message with this header is about to be given to the caller.
    #[inline]
    pub(super) fn note(&mut self, header: Header) {
        self.seen_ticket = full_ticket(header.ticket(), self.seen_ticket);
        self.origin.saw(header);
    }

    /// False for what was on its way when its channel was left; else its origin is looked up.
    #[inline]
    pub(super) fn is_wanted(&mut self, raw: Raw) -> bool {
        if self.memberships.filters() && self.is_left(raw.header.channel()) {
            return false;
        }
        self.look_up_origin(raw.header);
        true
    }

    fn look_up_origin(&mut self, header: Header) {
        if header.origin() == self.origin.key {
            return;
        }
        let index = header.channel();
        let (name, name_len) = self.directory.name_ptr(index);
        let generation = self.directory.generation(index).unwrap_or(0);
        let filters = self.memberships.filters();
        self.origin = Origin {
            key: if filters { NOWHERE } else { header.origin() },
            last: NOTHING,
            size: usize::MAX,
            step: usize::MAX,
            len: 0,
            channel: ChannelId { index, generation },
            name,
            name_len,
            sender: self.hub.sender_of(header.slot() as usize),
        };
    }

    /// A channel index may stand for another channel from now on.
    pub(super) fn forget_origin(&mut self) {
        self.origin = Origin::unknown();
    }

    #[cold]
    fn empty(&mut self) -> Result<Option<Raw>, RecvError> {
        if self.master_is_gone() {
            return Err(RecvError::MasterGone);
        }
        Ok(None)
    }
}
