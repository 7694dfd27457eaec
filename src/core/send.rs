//! Sending.

use std::time::Duration;

use super::alike::{LATER, Last};
use super::{Channel, Core};
use crate::arena::Extent;
use crate::clock::realtime_nanos;
use crate::directory::{ChannelId, check_name};
use crate::error::SendError;
use crate::lane::AHEAD;
use crate::record::{
    self, HEADER, Header, NAME_MAX, Placed, STAMP_BYTES, flags, kind, prefetch_write, round_up,
    size_of_record,
};
use crate::sync::Ordering;
use crate::ticket;

/// The last name resolved: most senders send to one channel many times in a row.
pub(super) struct NameCache {
    name: [u8; NAME_MAX],
    len: usize,
    id: ChannelId,
}

impl NameCache {
    pub fn new() -> Self {
        Self {
            name: [0; NAME_MAX],
            len: 0,
            id: ChannelId::default(),
        }
    }

    #[inline]
    fn get(&self, name: &[u8]) -> Option<ChannelId> {
        (self.name[..self.len] == *name).then_some(self.id)
    }

    fn put(&mut self, name: &[u8], id: ChannelId) {
        self.name[..name.len()].copy_from_slice(name);
        (self.len, self.id) = (name.len(), id);
    }
}

/// Where a message goes.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    Id(ChannelId),
    /// A channel that this core cannot see: the router resolves the name.
    Name(&'a [u8]),
}

impl Core {
    /// Sends `body` (any bytes, also none) to all cores that have joined the channel, this one
    /// included. Never waits. A channel nobody has joined is no error.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    #[inline]
    pub fn send(&mut self, name: impl AsRef<[u8]>, body: &[u8]) -> Result<(), SendError> {
        if body.len() >= self.large {
            return self.send_large(body, |core| core.resolve(name.as_ref()));
        }
        self.check_master()?;
        let to = self.resolve(name.as_ref())?;
        self.put(to, body)?;
        self.publish();
        Ok(())
    }

    /// [`Self::send`] to a resolved channel.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    #[inline]
    pub fn send_to(&mut self, channel: Channel, body: &[u8]) -> Result<(), SendError> {
        if body.len() >= self.large {
            return self.send_large(body, |core| core.current(channel));
        }
        self.check_master()?;
        let to = self.current(channel)?;
        self.put(to, body)?;
        self.publish();
        Ok(())
    }

    /// A send of a message that is large, or too large.
    #[cold]
    #[inline(never)]
    fn send_large<'n>(
        &mut self,
        body: &[u8],
        to: impl FnOnce(&mut Self) -> Result<To<'n>, SendError>,
    ) -> Result<(), SendError> {
        self.check_send(body.len())?;
        let to = to(self)?;
        self.put_any(to, body)?;
        self.publish();
        Ok(())
    }

    /// [`Self::send`], waiting up to `timeout` while the lane is full.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    pub fn send_timeout(
        &mut self,
        name: impl AsRef<[u8]>,
        body: &[u8],
        timeout: Duration,
    ) -> Result<(), SendError> {
        let name = name.as_ref();
        self.wait_for_slab(body.len(), timeout);
        match self.send(name, body) {
            Err(SendError::Full) => self.wait_for_room(timeout, |core| core.send(name, body)),
            other => other,
        }
    }

    /// [`Self::send_to`], waiting up to `timeout` while the lane is full.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    pub fn send_to_timeout(
        &mut self,
        channel: Channel,
        body: &[u8],
        timeout: Duration,
    ) -> Result<(), SendError> {
        self.wait_for_slab(body.len(), timeout);
        match self.send_to(channel, body) {
            Err(SendError::Full) => self.wait_for_room(timeout, |core| core.send_to(channel, body)),
            other => other,
        }
    }

    /// Sends several messages with one publication. Returns how many were taken: fewer than given
    /// when the lane got full; the others can be sent later.
    ///
    /// # Errors
    /// [`SendError::Full`] when not even the first was taken; otherwise see [`SendError`]. If any
    /// body is too large, nothing is sent.
    pub fn send_many<B: AsRef<[u8]>>(
        &mut self,
        name: impl AsRef<[u8]>,
        bodies: &[B],
    ) -> Result<usize, SendError> {
        self.check_all(bodies)?;
        let to = self.resolve(name.as_ref())?;
        self.put_many(to, bodies)
    }

    /// [`Self::send_many`] to a resolved channel.
    ///
    /// # Errors
    /// As for [`Self::send_many`].
    pub fn send_many_to<B: AsRef<[u8]>>(
        &mut self,
        channel: Channel,
        bodies: &[B],
    ) -> Result<usize, SendError> {
        self.check_all(bodies)?;
        let to = self.current(channel)?;
        self.put_many(to, bodies)
    }

    /// The first half of [`Self::send`]: everything but publishing. For tests of what happens when
    /// a sender is stopped there.
    ///
    /// # Errors
    /// As for [`Self::send`].
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub fn send_held(&mut self, name: impl AsRef<[u8]>, body: &[u8]) -> Result<(), SendError> {
        self.check_send(body.len())?;
        let to = self.resolve(name.as_ref())?;
        self.put_any(to, body)
    }

    /// The second half.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub fn release_held(&mut self) {
        self.publish();
    }

    /// A send done wrong: what it publishes it writes afterwards. For the test that shows that
    /// such a thing is found.
    ///
    /// # Errors
    /// As for [`Self::send`].
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub fn send_committed_first(
        &mut self,
        name: impl AsRef<[u8]>,
        body: &[u8],
    ) -> Result<(), SendError> {
        self.check_send(body.len())?;
        let to = self.resolve(name.as_ref())?;
        let at = match to {
            To::Id(id) => self.put_header(id, body.len())?,
            To::Name(name) => self.put_named_header(name, body.len())?,
        };
        // SAFETY: as in `put`, but that the router may read it already, which is what is wrong.
        unsafe {
            let at = self.put_stamp(at);
            self.publish();
            record::copy(body.as_ptr(), at, body.len());
        }
        Ok(())
    }

    #[inline]
    pub(super) fn check_send(&mut self, len: usize) -> Result<(), SendError> {
        self.check()?;
        if len > self.max_message {
            return Err(SendError::TooLarge {
                len,
                max: self.max_message,
            });
        }
        self.check_master()
    }

    /// [`Self::check_send`] for a message that is not large.
    #[inline]
    fn check_master(&mut self) -> Result<(), SendError> {
        self.check()?;
        if self.master_is_gone() {
            return Err(SendError::MasterGone);
        }
        Ok(())
    }

    fn check_all<B: AsRef<[u8]>>(&mut self, bodies: &[B]) -> Result<(), SendError> {
        let longest = bodies.iter().map(|b| b.as_ref().len()).max();
        self.check_send(longest.unwrap_or(0))
    }

    #[inline]
    pub(super) fn current<'a>(&self, channel: Channel) -> Result<To<'a>, SendError> {
        if !self.directory.is_current(channel.0) {
            return Err(SendError::StaleChannel);
        }
        Ok(To::Id(channel.0))
    }

    #[inline]
    pub(super) fn resolve<'a>(&mut self, name: &'a [u8]) -> Result<To<'a>, SendError> {
        if self.last_request != 0 && !self.request_is_routed() {
            return self.unresolved(name);
        }
        if let Some(id) = self.name_cache.get(name) {
            if self.directory.is_current(id) {
                return Ok(To::Id(id));
            }
        }
        self.look_up(name)
    }

    /// While a join or leave of this core is on its way, only the router knows which channel the
    /// name will stand for when it comes to the message.
    #[cold]
    fn unresolved<'a>(&mut self, name: &'a [u8]) -> Result<To<'a>, SendError> {
        check_name(name)?;
        Ok(To::Name(name))
    }

    /// How far this core has sent: a count of bytes that grows with each message and request.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.lane.tail()
    }

    /// How far the router has taken in what this core has sent: what is below that [`Self::position`] is in
    /// the queues of all who were subscribed (or their loss is counted). A send returns before that. Makes no
    /// system call.
    #[must_use]
    pub fn routed_position(&self) -> u64 {
        // SYNC(lane.head): pairs with the router's store; it has published to the queues before.
        self.mailbox.head.load(Ordering::Acquire)
    }

    #[cold]
    fn request_is_routed(&mut self) -> bool {
        // SYNC(lane.head): pairs with the router's store; it has carried out what lies below, so
        // the directory shows it.
        let routed = self.mailbox.head.load(Ordering::Acquire) >= self.last_request;
        if routed {
            self.last_request = 0;
        }
        routed
    }

    fn look_up<'a>(&mut self, name: &'a [u8]) -> Result<To<'a>, SendError> {
        check_name(name)?;
        let Some(id) = self.directory.find(name) else {
            return Ok(To::Name(name));
        };
        self.name_cache.put(name, id);
        Ok(To::Id(id))
    }

    fn put_many<B: AsRef<[u8]>>(&mut self, to: To<'_>, bodies: &[B]) -> Result<usize, SendError> {
        let mut taken = 0;
        while taken < bodies.len() {
            let run = self.put_run(to, &bodies[taken..]);
            taken += run;
            let Some(body) = bodies.get(taken) else { break };
            match self.put_any(to, body.as_ref()) {
                Ok(()) => taken += 1,
                Err(e) if taken == 0 => return Err(e),
                Err(_) => break,
            }
        }
        if taken > 0 {
            self.publish();
        }
        Ok(taken)
    }

    /// Writes the first of `bodies` into the lane, unpublished, as far as they need neither a
    /// context nor padding nor another look at the head; returns how many. They share a ticket:
    /// together they are one send, which has begun before the ticket is taken and ends with their
    /// publication.
    fn put_run<B: AsRef<[u8]>>(&mut self, to: To<'_>, bodies: &[B]) -> usize {
        let To::Id(id) = to else { return 0 };
        if self.context != Some(id) || bodies.len() == 1 {
            return 0;
        }
        self.end_run();
        let ticket = self.ticket();
        let (mut used, mut count) = (0, 0);
        while count < bodies.len() {
            let (bytes, messages) = self.put_alike((id, ticket), used, &bodies[count..]);
            if messages == 0 {
                break;
            }
            (used, count) = (used + bytes, count + messages);
        }
        self.lane.took(used);
        count
    }

    /// Writes the first of `bodies` and those behind it that are as long, `used` bytes from the
    /// lane's end: as a pack if they can be one. Returns bytes and messages; none if there is no room, or they
    /// are large.
    #[inline]
    fn put_alike<B: AsRef<[u8]>>(
        &self,
        (id, ticket): (ChannelId, u64),
        used: usize,
        bodies: &[B],
    ) -> (usize, usize) {
        let (start, room) = self.lane.straight();
        let room = usize::try_from(room).unwrap_or(0);
        let (start, room) = (start.wrapping_add(used), room - used);
        let first = bodies[0].as_ref();
        let len = first.len() + self.stamp_bytes();
        if size_of_record(len) > room || first.len() >= self.large {
            return (0, 0);
        }
        let header = Header::new(kind::MESSAGE, self.stamp_flag(), id.index, len, ticket);
        let (mut at, mut messages) = (HEADER, 0);
        let (step, room) = (round_up(len), room.min(self.longest_pack));
        for body in bodies.iter().map(AsRef::as_ref) {
            let has_room = messages == 0 || header.is_packable() && at + step <= room;
            if body.len() != first.len() || !has_room {
                break;
            }
            // SAFETY: the room begins at `start`, at + step lie in it; `body` is the caller's.
            unsafe {
                self.put_body(start.add(at), body);
            }
            prefetch_write(start.wrapping_add(at + AHEAD));
            (at, messages) = (at + step, messages + 1);
        }
        let header = if messages > 1 {
            header.packed(at - HEADER)
        } else {
            header
        };
        // SAFETY: a header's room was left at `start`.
        unsafe { header.write(start) };
        (at, messages)
    }

    /// Writes one message into the lane, unpublished: most of a send. Out of line it would cost a
    /// third more.
    #[inline(always)]
    fn put(&mut self, to: To<'_>, body: &[u8]) -> Result<(), SendError> {
        let at = match to {
            To::Id(id) => match self.put_last_header(id, body.len()) {
                Some(at) => at,
                None => self.put_first_header(id, body.len())?,
            },
            To::Name(name) => self.put_named_header(name, body.len())?,
        };
        // SAFETY: the header's claim covers stamp and body; `body` is the caller's own memory.
        unsafe { self.put_body(at, body) };
        Ok(())
    }

    /// The same, also for a large one.
    fn put_any(&mut self, to: To<'_>, body: &[u8]) -> Result<(), SendError> {
        match to {
            To::Id(id) if body.len() >= self.large => self.put_large(id, body),
            to => self.put(to, body),
        }
    }

    /// The same for a large one.
    fn put_large(&mut self, id: ChannelId, body: &[u8]) -> Result<(), SendError> {
        let (at, piece) = self.put_large_header(id, body.len())?;
        // SAFETY: as in `put`; what was found in the slab is this core's alone.
        unsafe { self.put_body(at, body) };
        if let Some(piece) = piece {
            self.slab.sent(piece, self.lane.tail());
        }
        Ok(())
    }

    /// Claims a record for a large message: of its place in the slab, if there is room, else of the
    /// message itself. Returns where its payload goes, and the piece of the slab.
    pub(super) fn put_large_header(
        &mut self,
        id: ChannelId,
        len: usize,
    ) -> Result<(*mut u8, Option<Extent>), SendError> {
        let bytes = len + self.stamp_bytes();
        let Some(piece) = self.slab.find(bytes) else {
            return Ok((self.put_header(id, len)?, None));
        };
        let at = self.put_record(id, kind::PLACED, Placed::BYTES)?;
        let placed = Placed {
            offset: piece.offset() as u64,
            len: bytes as u64,
        };
        // SAFETY: claimed, with just so much payload.
        unsafe { placed.write(at) };
        Ok((self.slab.at(piece), Some(piece)))
    }

    /// Claims a message record. Returns where its payload goes.
    #[inline(always)]
    pub(super) fn put_header(&mut self, id: ChannelId, len: usize) -> Result<*mut u8, SendError> {
        self.put_record(id, kind::MESSAGE, len + self.stamp_bytes())
    }

    /// Claims a record with `len` bytes of payload, preceded by a context if the channel is another than
    /// before. Returns where its payload goes.
    #[inline(always)]
    fn put_record(&mut self, id: ChannelId, kind: u8, len: usize) -> Result<*mut u8, SendError> {
        let context = if self.context == Some(id) { 0 } else { HEADER };
        let Some(mut at) = self.claim(context + size_of_record(len)) else {
            return Err(self.full());
        };
        let ticket = self.ticket();
        // SAFETY: claimed: room for the context, the header and `len` bytes.
        unsafe {
            if context > 0 {
                let generation = id.generation.into();
                Header::new(kind::CONTEXT, 0, id.index, 0, generation).write(at);
                at = at.add(HEADER);
                self.set_context(Some(id));
            }
            Header::new(kind, self.stamp_flag(), id.index, len, ticket).write(at);
            Ok(at.add(HEADER))
        }
    }

    /// Notes which channel messages without a name go to from here on.
    pub(super) fn set_context(&mut self, context: Option<ChannelId>) {
        (self.context, self.last) = (context, Last::NONE);
    }

    /// The same for a channel given by name: a length byte and the name come first.
    pub(super) fn put_named_header(
        &mut self,
        name: &[u8],
        len: usize,
    ) -> Result<*mut u8, SendError> {
        let prefix = round_up(1 + name.len());
        let len = prefix + len + self.stamp_bytes();
        let Some(at) = self.claim(size_of_record(len)) else {
            return Err(self.full());
        };
        let ticket = self.ticket();
        // SAFETY: claimed: room for the header, the prefix and what follows.
        unsafe {
            Header::new(kind::NAMED, self.stamp_flag(), 0, len, ticket).write(at);
            let at = at.add(HEADER);
            at.write(name.len() as u8);
            record::copy(name.as_ptr(), at.add(1), name.len());
            Ok(at.add(prefix))
        }
    }

    /// Writes the stamp, if messages have one, and the body.
    ///
    /// # Safety
    /// So many bytes are claimed at `at`, a payload's start.
    #[inline(always)]
    pub(super) unsafe fn put_body(&self, at: *mut u8, body: &[u8]) {
        // SAFETY: the caller's contract; `body` is the caller's own memory.
        unsafe {
            let at = self.put_stamp(at);
            record::copy(body.as_ptr(), at, body.len());
        }
    }

    /// # Safety
    /// 8 bytes are claimed at `at` if messages are stamped.
    #[inline]
    pub(super) unsafe fn put_stamp(&self, at: *mut u8) -> *mut u8 {
        if !self.stamped {
            return at;
        }
        // SAFETY: the caller's contract; payloads are 16-byte aligned.
        unsafe {
            at.cast::<u64>().write(realtime_nanos());
            at.add(STAMP_BYTES)
        }
    }

    #[inline]
    pub(super) fn stamp_bytes(&self) -> usize {
        if self.stamped { STAMP_BYTES } else { 0 }
    }

    #[inline]
    fn stamp_flag(&self) -> u8 {
        if self.stamped { flags::TIMED } else { 0 }
    }

    #[inline]
    pub(super) fn ticket(&mut self) -> u64 {
        if !self.ordered {
            return 0;
        }
        match self.tickets.again(self.last_ticket) {
            Some(ticket) => ticket,
            None => self.draw_ticket(),
        }
    }

    // Apart, and so the two halves of `Tickets::next`: in one piece a send takes 4 % more instructions.
    #[inline(never)]
    fn draw_ticket(&mut self) -> u64 {
        self.turns.wait(self.lane.tail());
        let floor = || self.floor.load();
        let ticket = self
            .tickets
            .fresh(&mut self.last_ticket, floor, ticket::clock);
        self.last.header = self.last.header.with_ticket(ticket);
        self.run.skip = LATER;
        ticket
    }

    /// Makes everything claimed so far visible to the router.
    #[inline]
    pub(super) fn publish(&mut self) {
        let tail = self.lane.tail();
        if self.biased {
            if !self.word.publish_biased(tail) {
                self.ring_from_lane();
            }
        } else if self.word.publish(tail) {
            self.ring_from_lane();
        } else if self.word.is_biased() {
            self.biased = true;
        }
    }

    /// The lane is armed, or may be.
    #[cold]
    #[inline(never)]
    fn ring_from_lane(&mut self) {
        // Once the router has seen a DETACH the lane may be the next owner's.
        self.biased = !self.detached && self.word.take_bias();
        self.ring();
    }

    /// Why the lane did not take a record.
    #[cold]
    pub(super) fn full(&mut self) -> SendError {
        if self.hub.view.slot(self.slot).load() != self.holder {
            return SendError::Detached; // quarantined
        }
        if !self.master_is_alive() {
            return SendError::MasterGone;
        }
        SendError::Full
    }
}
