//! Messages like the last one, to the same channel and of the same length: what most messages are. They are
//! written with its header, or, in a stream, without one, in a run (see `lane`).

use super::Core;
use super::send::To;
use crate::directory::ChannelId;
use crate::error::SendError;
use crate::record::{HEADER, Header, kind, round_up};

/// The last message sent, for one that is like it: what most messages are.
#[derive(Clone, Copy)]
pub(super) struct Last {
    id: ChannelId,
    /// Bytes of the body; none is as long where there is no such message.
    len: usize,
    /// Of a message to the lane's context, with the ticket drawn last.
    pub header: Header,
    /// Bytes from one to the next in a run; 0 if they can be in none.
    step: usize,
}

impl Last {
    pub const NONE: Self = Self {
        id: ChannelId {
            index: 0,
            generation: 0,
        },
        len: usize::MAX,
        header: Header { w0: 0, w1: 0 },
        step: 0,
    };
}

/// A run of messages alike: one header, with room for so many, and their bodies behind it as they are
/// sent, see `lane`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// Messages that it still has room for; 0: there is none.
    left: usize,
    /// Where the last one was ended early, if the router may not know yet.
    cut: Option<u64>,
    /// Messages before the next one.
    pub skip: u32,
}

/// Bytes of a run's bodies, at most, and of each.
const RUN: usize = 4000;
const RUN_STEP: usize = 128;
/// Where packs must be so short that it would have fewer, there are none.
const RUN_LEAST: usize = 512;
/// Messages after a ticket was drawn, or a run had to be ended, before the next run: who is not alone would
/// have to end it soon.
pub(super) const LATER: u32 = 1024;

impl Core {
    /// [`Self::put_header`] for a message to the same channel and of the same length as the last one, if the
    /// lane has room for it right there.
    #[inline(always)]
    pub(super) fn put_last_header(&mut self, id: ChannelId, len: usize) -> Option<*mut u8> {
        if self.last.id != id || self.last.len != len {
            return None;
        }
        if self.run.left > 0 {
            if !self.ordered || self.tickets.again(self.last_ticket).is_some() {
                self.run.left -= 1;
                return Some(self.lane.append(self.last.step));
            }
            self.end_run();
        }
        self.ticket();
        if self.biased && self.last.step > 0 {
            if self.run.skip > 0 {
                self.run.skip -= 1;
            } else if let Some(at) = self.begin_run() {
                return Some(at);
            }
        }
        let at = self.lane.claim_straight(self.last.header.size())?;
        // SAFETY: claimed, the header included.
        unsafe {
            self.last.header.write(at);
            Some(at.add(HEADER))
        }
    }

    /// Begins a run with a message like the last one, if there is room for all of it right there. Returns
    /// where the body goes.
    #[inline(never)]
    fn begin_run(&mut self) -> Option<*mut u8> {
        let Last { header, step, .. } = self.last;
        if let Some(cut) = self.run.cut {
            // Beyond it the router knows that the run has ended; before, the next cut would pass for its.
            if !self.lane.is_routed(cut, &self.mailbox.head) {
                self.run.skip = LATER;
                return None;
            }
            self.run.cut = None;
        }
        let (messages, room) = (self.run_bytes() / step, self.lane.straight().1);
        if room < (HEADER + messages * step) as i64 {
            return None;
        }
        let at = self.lane.claim_straight(HEADER + step)?;
        let header = header.packed(messages * step).with_kind(kind::RUN);
        self.run.left = messages - 1;
        // SAFETY: claimed, the header included.
        unsafe {
            header.write(at);
            Some(at.add(HEADER))
        }
    }

    /// Bytes of a run's bodies, at most.
    fn run_bytes(&self) -> usize {
        RUN.min(self.longest_pack.saturating_sub(HEADER))
    }

    /// For tests of runs without the stream before them: [`Self::send`] of a message like the last one that
    /// begins one.
    ///
    /// # Errors
    /// As for [`Self::send`].
    ///
    /// # Panics
    /// The message is not like the last one, or there is no room for a run.
    #[doc(hidden)]
    pub fn send_in_a_run(&mut self, name: impl AsRef<[u8]>, body: &[u8]) -> Result<(), SendError> {
        self.check_send(body.len())?;
        let To::Id(id) = self.resolve(name.as_ref())? else {
            return Err(SendError::StaleChannel);
        };
        assert!(self.last.id == id && self.last.len == body.len() && self.last.step > 0);
        self.ticket();
        let at = self.begin_run().expect("room for a run");
        // SAFETY: as in `put`.
        unsafe { self.put_body(at, body) };
        self.publish();
        Ok(())
    }

    /// True when the next message like the last one has its place in a run.
    #[doc(hidden)]
    pub fn is_in_a_run(&self) -> bool {
        self.run.left > 0
    }

    /// Ends the run, if there is one: what comes next has a header.
    #[inline]
    pub(super) fn end_run(&mut self) {
        if self.run.left > 0 {
            let tail = self.lane.tail();
            self.word.cut_run(tail);
            self.run = Run {
                left: 0,
                cut: Some(tail),
                skip: LATER,
            };
        }
    }

    /// Claims `size` bytes of the lane for a record.
    #[inline(always)]
    pub(super) fn claim(&mut self, size: usize) -> Option<*mut u8> {
        self.end_run();
        self.lane.claim(size, &self.mailbox.head)
    }

    /// [`Self::put_header`], which the next message can be like.
    #[inline(never)]
    pub(super) fn put_first_header(
        &mut self,
        id: ChannelId,
        len: usize,
    ) -> Result<*mut u8, SendError> {
        let at = self.put_header(id, len)?;
        // SAFETY: it has just been written there; the router only reads it.
        let header = unsafe { Header::read(at.sub(HEADER)) };
        let step = round_up(header.len());
        let is_short = header.is_packable() && step <= RUN_STEP && self.run_bytes() >= RUN_LEAST;
        let step = if is_short { step } else { 0 };
        self.last = Last {
            id,
            len,
            header,
            step,
        };
        Ok(at)
    }
}
