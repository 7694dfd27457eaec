//! Loans: room for one message, which the sender fills in place: in its lane, or, if it is large, in its
//! slab, where receivers read it.
//!
//! A loan is claimed like any record and published like any record; in between, the caller has its
//! body as a slice. The ticket is drawn when it is sent, so that a loan that is filled slowly takes
//! its place among the messages where it was sent, not where it was begun. One that is given up is
//! as if it had never been: nothing beyond the published tail exists for anybody else.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::send::To;
use super::{Channel, Core};
use crate::arena::Extent;
use crate::directory::ChannelId;
use crate::error::SendError;
use crate::record::{Header, Placed, kind, round_up, size_of_record};

/// A message that is being written: its body, in place. Sent by [`Self::send`]; dropped, it was
/// never there.
///
/// The bytes are what earlier messages of this core have left there: overwrite all of them.
#[derive(Debug)]
pub struct Loan<'a> {
    core: &'a mut Core,
    raw: RawLoan,
}

/// A loan without its core, for bindings that keep the two apart.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct RawLoan {
    header: *mut u8,
    /// Where the record's payload, and in it the stamp and then the body, begin.
    payload: *mut u8,
    body: *mut u8,
    len: usize,
    /// The piece of the slab that has them.
    piece: Option<Extent>,
    /// Tail and context of the lane before.
    tail: u64,
    context: Option<ChannelId>,
}

// SAFETY: it is a part of a core's lane or slab, and moves between threads with the core.
unsafe impl Send for RawLoan {}

impl RawLoan {
    /// Where the body is, and its length.
    pub fn body(&self) -> (*mut u8, usize) {
        (self.body, self.len)
    }
}

impl Core {
    /// Lends room for a message of `len` bytes to the channel, to be filled in place instead of
    /// copied from a buffer: worth it for bodies of some kilobytes. Never waits.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let hub = corecast::Hub::builder().workers(1).create()?;
    /// # let master = hub.start()?;
    /// # let mut core = hub.attach(0, 0)?;
    /// let mut loan = core.loan("frames", 100_000)?;
    /// loan.fill(7); // as any `&mut [u8]`
    /// loan.send();
    /// # drop(core);
    /// # Ok(master.stop()?)
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub fn loan(&mut self, name: impl AsRef<[u8]>, len: usize) -> Result<Loan<'_>, SendError> {
        self.loan_timeout(name, len, Duration::ZERO)
    }

    /// [`Self::loan`] to a resolved channel.
    ///
    /// # Errors
    /// As for [`Self::send_to`].
    pub fn loan_to(&mut self, channel: Channel, len: usize) -> Result<Loan<'_>, SendError> {
        self.loan_to_timeout(channel, len, Duration::ZERO)
    }

    /// [`Self::loan`], waiting up to `timeout` while the lane is full.
    ///
    /// # Errors
    /// As for [`Self::send_timeout`].
    pub fn loan_timeout(
        &mut self,
        name: impl AsRef<[u8]>,
        len: usize,
        timeout: Duration,
    ) -> Result<Loan<'_>, SendError> {
        let name = name.as_ref();
        self.lend(len, timeout, |core| core.resolve(name))
    }

    /// [`Self::loan_to`], waiting up to `timeout` while the lane is full.
    ///
    /// # Errors
    /// As for [`Self::send_to_timeout`].
    pub fn loan_to_timeout(
        &mut self,
        channel: Channel,
        len: usize,
        timeout: Duration,
    ) -> Result<Loan<'_>, SendError> {
        self.lend(len, timeout, |core| core.current(channel))
    }

    fn lend<'n>(
        &mut self,
        len: usize,
        timeout: Duration,
        to: impl Fn(&mut Self) -> Result<To<'n>, SendError>,
    ) -> Result<Loan<'_>, SendError> {
        self.wait_for_slab(len, timeout);
        let raw = match self.claim_loan(len, &to) {
            Err(SendError::Full) if !timeout.is_zero() => {
                self.wait_for_room(timeout, |core| core.claim_loan(len, &to))
            }
            other => other,
        }?;
        Ok(Loan { core: self, raw })
    }

    fn claim_loan<'n>(
        &mut self,
        len: usize,
        to: impl Fn(&mut Self) -> Result<To<'n>, SendError>,
    ) -> Result<RawLoan, SendError> {
        self.check_send(len)?;
        let to = to(self)?;
        let (tail, context) = (self.lane.tail(), self.context);
        let bytes = len + self.stamp_bytes();
        let (payload, piece, in_lane) = match to {
            To::Id(id) if len >= self.large => {
                let (payload, piece) = self.put_large_header(id, len)?;
                (payload, piece, piece.map_or(bytes, |_| Placed::BYTES))
            }
            To::Id(id) => (self.put_header(id, len)?, None, bytes),
            To::Name(name) => {
                let prefix = round_up(1 + name.len());
                (self.put_named_header(name, len)?, None, prefix + bytes)
            }
        };
        Ok(RawLoan {
            header: self.lane.before_tail(size_of_record(in_lane)),
            payload,
            body: payload.wrapping_add(self.stamp_bytes()),
            len,
            piece,
            tail,
            context,
        })
    }

    fn send_loan(&mut self, raw: RawLoan) {
        let ticket = self.ticket();
        // SAFETY: the loan's own record, claimed and not yet published: ours alone.
        unsafe {
            let header = Header::read(raw.header);
            debug_assert!([kind::MESSAGE, kind::NAMED, kind::PLACED].contains(&header.kind()));
            header.with_ticket(ticket).write(raw.header);
            self.put_stamp(raw.payload);
        }
        if let Some(piece) = raw.piece {
            self.slab.sent(piece, self.lane.tail());
        }
        self.publish();
    }

    fn drop_loan(&mut self, raw: RawLoan) {
        self.lane.give_back(raw.tail);
        self.set_context(raw.context);
    }
}

impl Loan<'_> {
    /// Sends the message as it stands.
    pub fn send(self) {
        let mut loan = std::mem::ManuallyDrop::new(self);
        let raw = loan.raw;
        loan.core.send_loan(raw);
    }

    /// Leaves the loan to the caller, who sees to it that the core sends nothing else meanwhile.
    #[doc(hidden)]
    pub fn into_raw(self) -> RawLoan {
        std::mem::ManuallyDrop::new(self).raw
    }

    /// The inverse of [`Self::into_raw`].
    ///
    /// # Safety
    /// `raw` is of this very core, which has sent, joined, left and lent nothing since.
    #[doc(hidden)]
    pub unsafe fn from_raw(core: &mut Core, raw: RawLoan) -> Loan<'_> {
        Loan { core, raw }
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: claimed for the body; nobody else writes there until it is published, which needs
        // the core that is borrowed here. All bytes of a lane are initialised.
        unsafe { std::slice::from_raw_parts(self.raw.body, self.raw.len) }
    }
}

impl DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; nobody reads it either.
        unsafe { std::slice::from_raw_parts_mut(self.raw.body, self.raw.len) }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.core.drop_loan(self.raw);
    }
}
