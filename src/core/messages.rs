//! Receiving many messages with one call.

use super::recv::Origin;
use super::{Core, Message};
use crate::error::RecvError;
use crate::queue::{Front, Raw};
use crate::record::full_ticket;

impl Core {
    /// The messages at hand, in place and in order: [`Self::recv`] for many. None: there is
    /// nothing, *and* the notification is armed. Never waits, unless [`Self::set_linger`] says so. What
    /// the iterator is not asked for stays for the next call.
    ///
    /// All messages of one iterator stay valid as long as it is borrowed, so they can be collected
    /// first and used afterwards.
    ///
    /// # Errors
    /// As for [`Self::recv`]. The iterator ends in front of a loss; the next call tells of it.
    #[inline]
    pub fn recv_many(&mut self) -> Result<Option<Messages<'_>>, RecvError> {
        self.check()?;
        let Some(first) = self.next()? else {
            return Ok(None);
        };
        self.note(first.header);
        self.queue.put_back(first);
        Ok(Some(Messages::of(self)))
    }

    /// What is not a plain message of the same origin: rare. Given and returned by value: were an iterator
    /// lent, it would be in memory, and some loops over it would work there for every message.
    #[cold]
    #[inline(never)]
    fn next_of_others(
        &mut self,
        front: Front,
        origin: Origin,
        seen_ticket: u64,
    ) -> (Option<Raw>, Front, Origin) {
        self.take_back(front, origin, seen_ticket);
        let raw = self.next_in_front();
        (raw, *self.queue.front_mut(), self.origin)
    }

    #[inline(always)]
    fn take_back(&mut self, front: Front, origin: Origin, seen_ticket: u64) {
        *self.queue.front_mut() = front;
        self.seen_ticket = seen_ticket;
        self.origin = origin;
    }

    /// The next message in the front buffer that has not been left meanwhile.
    fn next_in_front(&mut self) -> Option<Raw> {
        loop {
            let raw = self.queue.next_in_front()?;
            if self.is_wanted(raw) {
                return Some(raw);
            }
        }
    }
}

/// The messages that [`Core::recv_many`] found.
///
/// Holds copies of what it needs of the core, so that a loop over it works in registers; gives
/// back what has changed when it is dropped. (If it is forgotten instead, its messages come again.)
#[derive(Debug)]
pub struct Messages<'a> {
    core: &'a mut Core,
    front: Front,
    seen_ticket: u64,
    origin: Origin,
}

impl<'a> Messages<'a> {
    fn of(core: &'a mut Core) -> Self {
        Self {
            front: *core.queue.front_mut(),
            seen_ticket: core.seen_ticket,
            origin: core.origin,
            core,
        }
    }

    #[inline(always)]
    fn give_back(&mut self) {
        self.core
            .take_back(self.front, self.origin, self.seen_ticket);
    }

    /// A message whose header is not the last one's.
    #[inline]
    fn next_unlike(&mut self) -> Option<Raw> {
        let raw = match self.front.plain(self.origin.key) {
            Some(raw) => raw,
            None => {
                let (front, origin, seen) = (self.front, self.origin, self.seen_ticket);
                let (raw, front, origin) = self.core.next_of_others(front, origin, seen);
                (self.front, self.origin) = (front, origin);
                raw?
            }
        };
        self.seen_ticket = full_ticket(raw.header.ticket(), self.seen_ticket);
        self.origin.saw(raw.header);
        Some(raw)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    // Always: in a program with several such loops it would be a call, and what the loop has in registers
    // here would go through memory for each message, at twice the time.
    #[inline(always)]
    fn next(&mut self) -> Option<Message<'a>> {
        let raw = match self.origin.next_alike(&mut self.front) {
            Some(raw) => raw,
            None => self.next_unlike()?,
        };
        // SAFETY: as in `Core::recv`; the front is not flipped while the core is borrowed.
        Some(unsafe { self.origin.message(raw, self.seen_ticket) })
    }
}

impl Drop for Messages<'_> {
    #[inline]
    fn drop(&mut self) {
        self.give_back();
    }
}
