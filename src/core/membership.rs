//! Joining and leaving channels, and resolved handles.
//!
//! Requests travel in the core's lane, in order with its messages; the router answers joins and
//! opens in the mailbox, and marks in the queue up to which operation the stream that follows has
//! taken effect. The core keeps what it has joined, so that leaving what was not joined is an
//! error at once, and what it has left, so that `recv` drops messages that were on their way.

use std::collections::{HashMap, VecDeque};

use super::wait::Ended;
use super::{Channel, Core};
use crate::config::Overflow;
use crate::directory::{ChannelId, check_name};
use crate::error::{JoinError, LeaveError, SendError};
use crate::record::{self, HEADER, Header, flags, kind, size_of_record};
use crate::shared::ANSWERS;

/// An unanswered [`Core::join_async`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JoinTicket(u64);

impl JoinTicket {
    /// The number of the request, for bindings.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The inverse of [`Self::number`].
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Results of asynchronous joins that are kept until asked for.
const KEPT_RESULTS: u64 = 1024;

#[derive(Clone, Copy, Debug)]
enum Membership {
    /// Join number `ask` is unanswered.
    Asked(u64),
    In(ChannelId),
}

/// A channel that was left: its messages are dropped until operation `op` shows in the stream.
#[derive(Clone, Copy, Debug)]
struct Left {
    op: u64,
    channel: u32,
}

#[derive(Debug)]
struct Pending {
    ask: u64,
    /// The name of a join; None for an open.
    name: Option<Box<[u8]>>,
    keep_result: bool,
}

/// What a core knows of its memberships.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    joined: HashMap<Box<[u8]>, Membership>,
    /// Handles opened and not closed, by id, with how often.
    opened: HashMap<ChannelId, u32>,
    /// Joins and opens without an answer yet, oldest first; at most [`ANSWERS`].
    pending: VecDeque<Pending>,
    /// Answers to asynchronous joins not asked for yet.
    results: HashMap<u64, Option<ChannelId>>,
    /// Operations requested / joins and opens among them.
    ops: u64,
    asks: u64,
    left: Vec<Left>,
    /// Everything before this operation was left; 0 for none.
    left_all: u64,
}

impl Memberships {
    /// True when some messages may have to be dropped.
    #[inline]
    pub fn filters(&self) -> bool {
        self.left_all != 0 || !self.left.is_empty()
    }
}

impl Core {
    /// Joins a channel and waits for the master's answer: every message whose sending begins
    /// after this returned will be received. Joining again is no error.
    ///
    /// # Errors
    /// See [`JoinError`]; the core has not joined then.
    pub fn join(&mut self, name: impl AsRef<[u8]>) -> Result<ChannelId, JoinError> {
        let name = name.as_ref();
        let ask = match self.membership(name)? {
            Some(Membership::In(id)) => return Ok(id),
            Some(Membership::Asked(ask)) => ask,
            None => self.ask_to_join(name, 0)?,
        };
        let answer = self.wait_for_answer(ask);
        if matches!(answer, Err(Ended::Timeout | Ended::MasterGone)) {
            self.take_back_join(name);
        }
        let id = answer?.ok_or(self.too_many());
        self.memberships.results.remove(&ask);
        id
    }

    /// Asks to join and returns at once; [`Self::join_result`] tells the outcome, and the core's
    /// descriptor is notified when it is there. For event loops: never waits.
    ///
    /// # Errors
    /// See [`JoinError`]; [`JoinError::Full`] when the lane has no room now.
    pub fn join_async(&mut self, name: impl AsRef<[u8]>) -> Result<JoinTicket, JoinError> {
        let name = name.as_ref();
        match self.membership(name)? {
            Some(Membership::Asked(ask)) => Ok(JoinTicket(ask)),
            Some(Membership::In(id)) => {
                // Answered already: give it a number of its own all the same.
                let ask = self.ask_to_join(name, flags::NOTIFY)?;
                let known = Membership::In(id);
                self.memberships.joined.insert(name.into(), known);
                Ok(JoinTicket(ask))
            }
            None => self.ask_to_join(name, flags::NOTIFY).map(JoinTicket),
        }
    }

    /// The outcome of an asynchronous join, once; None while there is none (or it was told
    /// before, or more than 1,024 joins ago).
    pub fn join_result(&mut self, ticket: JoinTicket) -> Option<Result<ChannelId, JoinError>> {
        if let Err(e) = self.check() {
            return Some(Err(e.into()));
        }
        self.harvest();
        let too_many = self.too_many();
        let result = self.memberships.results.remove(&ticket.0)?;
        Some(result.ok_or(too_many))
    }

    /// Leaves a channel: from now on `recv` returns no message of it.
    ///
    /// # Errors
    /// See [`LeaveError`]; nothing has changed then.
    pub fn leave(&mut self, name: impl AsRef<[u8]>) -> Result<(), LeaveError> {
        let name = name.as_ref();
        self.check()?;
        check_name(name)?;
        self.harvest();
        let channel = match self.memberships.joined.get(name) {
            None => return Err(LeaveError::NotJoined),
            Some(Membership::In(id)) => Some(*id),
            Some(Membership::Asked(ask)) => {
                let ask = *ask;
                self.wait_for_answer(ask)?
            }
        };
        let op = self.request(kind::LEAVE, 0, 0, 0, name)?;
        self.tell_of_leaving();
        self.memberships.joined.remove(name);
        if let Some(id) = channel {
            self.memberships.left.push(Left {
                op,
                channel: id.index,
            });
        }
        Ok(())
    }

    /// Leaves all channels, as a server does at the end of a request. Costs nothing when none was
    /// joined. Open handles stay.
    ///
    /// # Errors
    /// See [`LeaveError`]; nothing has changed then.
    pub fn leave_all(&mut self) -> Result<(), LeaveError> {
        self.check()?;
        if self.memberships.joined.is_empty() {
            return Ok(());
        }
        let op = self.request(kind::LEAVE_ALL, 0, 0, 0, b"")?;
        self.tell_of_leaving();
        self.memberships.joined.clear();
        self.memberships.left.clear();
        self.memberships.left_all = op;
        Ok(())
    }

    /// How many channels this core has joined or asked to join.
    pub fn joined(&self) -> usize {
        self.memberships.joined.len()
    }

    /// Resolves a name for sending. The channel is kept while the handle is open, whoever joins
    /// or leaves it.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn channel(&mut self, name: impl AsRef<[u8]>) -> Result<Channel, JoinError> {
        self.check()?;
        check_name(name.as_ref())?;
        let ask = self.ask(kind::OPEN, 0, name.as_ref())?;
        let id = self.wait_for_answer(ask)?.ok_or(self.too_many())?;
        *self.memberships.opened.entry(id).or_insert(0) += 1;
        Ok(Channel(id))
    }

    /// Closes a handle that this core has opened.
    ///
    /// # Errors
    /// See [`LeaveError`]; [`LeaveError::NotJoined`] when it is not open.
    pub fn close(&mut self, channel: Channel) -> Result<(), LeaveError> {
        self.check()?;
        let id = channel.0;
        match self.memberships.opened.get_mut(&id) {
            None => return Err(LeaveError::NotJoined),
            Some(n) if *n > 1 => *n -= 1,
            Some(_) => {
                let generation = id.generation.into();
                self.request(kind::CLOSE, 0, id.index, generation, b"")?;
                self.memberships.opened.remove(&id);
            }
        }
        Ok(())
    }

    /// True when a message of `channel` was on its way when the channel was left.
    #[cold]
    pub(super) fn is_left(&mut self, channel: u32) -> bool {
        let done = self.queue.ops_done();
        let memberships = &mut self.memberships;
        if memberships.left_all <= done {
            memberships.left_all = 0;
        }
        memberships.left.retain(|left| left.op > done);
        memberships.left_all != 0 || memberships.left.iter().any(|l| l.channel == channel)
    }

    fn membership(&mut self, name: &[u8]) -> Result<Option<Membership>, JoinError> {
        self.check()?;
        check_name(name)?;
        self.harvest();
        Ok(self.memberships.joined.get(name).copied())
    }

    fn ask_to_join(&mut self, name: &[u8], flags: u8) -> Result<u64, JoinError> {
        let ask = self.ask(kind::JOIN, flags, name)?;
        self.memberships
            .joined
            .insert(name.into(), Membership::Asked(ask));
        Ok(ask)
    }

    /// Requests a join or an open; returns its number.
    fn ask(&mut self, kind: u8, flags: u8, name: &[u8]) -> Result<u64, JoinError> {
        self.harvest();
        if self.memberships.pending.len() >= ANSWERS {
            return Err(JoinError::TooManyPending {
                max: ANSWERS as u32,
            });
        }
        self.request(kind, flags, 0, 0, name)?;
        self.memberships.asks += 1;
        let ask = self.memberships.asks;
        self.memberships.pending.push_back(Pending {
            ask,
            name: (kind == kind::JOIN).then(|| name.into()),
            keep_result: flags & flags::NOTIFY != 0,
        });
        Ok(ask)
    }

    /// Publishes an operation; returns its number. The payload is the name, or, for a CLOSE, the
    /// generation.
    fn request(
        &mut self,
        kind: u8,
        flags: u8,
        channel: u32,
        generation: u64,
        name: &[u8],
    ) -> Result<u64, SendError> {
        if self.master_is_gone() {
            return Err(SendError::MasterGone);
        }
        let payload = if kind == kind::CLOSE { 8 } else { name.len() };
        let at = self.claim_request(size_of_record(payload), flags & flags::NOTIFY == 0)?;
        let ticket = self.ticket();
        // SAFETY: claimed for header and payload.
        unsafe {
            Header::new(kind, flags, channel, payload, ticket).write(at);
            let at = at.add(HEADER);
            if kind == kind::CLOSE {
                at.cast::<u64>().write(generation);
            } else {
                record::copy(name.as_ptr(), at, name.len());
            }
        }
        self.publish_request();
        Ok(self.memberships.ops)
    }

    fn claim_request(&mut self, size: usize, may_wait: bool) -> Result<*mut u8, SendError> {
        if may_wait {
            return self.claim_waiting(size, self.hub.view.config.answer_timeout);
        }
        // An event loop must not stop here: the router may wait for room in this core's own queue.
        let claimed = self.claim(size);
        claimed.ok_or_else(|| self.full())
    }

    /// Under [`Overflow::Block`] the router may wait for this core to receive; then it must look at
    /// the request that says that it will not.
    pub(super) fn tell_of_leaving(&mut self) {
        if self.hub.view.config.overflow == Overflow::Block {
            self.ring();
        }
    }

    fn publish_request(&mut self) {
        self.publish();
        self.forget_origin();
        self.last_request = self.lane.tail();
        self.memberships.ops += 1;
    }

    /// Takes over the answers that have come.
    fn harvest(&mut self) {
        while let Some(first) = self.memberships.pending.front() {
            let ask = first.ask;
            let Some(answer) = self.mailbox.answers[ask as usize % ANSWERS].get(ask) else {
                return;
            };
            if let Some(pending) = self.memberships.pending.pop_front() {
                self.memberships.answered(pending, answer);
            }
        }
    }

    fn wait_for_answer(&mut self, ask: u64) -> Result<Option<ChannelId>, Ended> {
        let timeout = self.hub.view.config.answer_timeout;
        let slot = ask as usize % ANSWERS;
        let answer = self.wait_for(timeout, |core| core.mailbox.answers[slot].get(ask))?;
        self.harvest();
        Ok(answer)
    }

    /// A join that was not answered must not take effect behind the caller's back: ask to leave.
    fn take_back_join(&mut self, name: &[u8]) {
        let size = size_of_record(name.len());
        if let Some(at) = self.claim(size) {
            let ticket = self.ticket();
            // SAFETY: claimed for header and name.
            unsafe {
                Header::new(kind::LEAVE, 0, 0, name.len(), ticket).write(at);
                record::copy(name.as_ptr(), at.add(HEADER), name.len());
            }
            self.publish_request();
            self.memberships.joined.remove(name);
        }
    }

    fn too_many(&self) -> JoinError {
        JoinError::TooManyChannels {
            max: self.hub.view.config.channels,
        }
    }
}

impl Memberships {
    fn answered(&mut self, pending: Pending, answer: Option<ChannelId>) {
        if let Some(name) = pending.name {
            self.settle(pending.ask, &name, answer);
        }
        if pending.keep_result {
            self.results.insert(pending.ask, answer);
            self.results.remove(&pending.ask.wrapping_sub(KEPT_RESULTS));
        }
    }

    /// Joined, or not: unless the channel has been left (and asked for again) meanwhile.
    fn settle(&mut self, ask: u64, name: &[u8], answer: Option<ChannelId>) {
        let Some(Membership::Asked(current)) = self.joined.get(name) else {
            return;
        };
        if *current != ask {
            return;
        }
        match answer {
            Some(id) => {
                self.joined.insert(name.into(), Membership::In(id));
            }
            None => {
                self.joined.remove(name);
            }
        }
    }
}

impl From<Ended> for JoinError {
    fn from(e: Ended) -> Self {
        match e {
            Ended::Timeout => Self::Timeout,
            Ended::MasterGone => Self::MasterGone,
            Ended::Detached => Self::Detached,
        }
    }
}

impl From<Ended> for LeaveError {
    fn from(e: Ended) -> Self {
        match e {
            Ended::Timeout => Self::Timeout,
            Ended::MasterGone => Self::MasterGone,
            Ended::Detached => Self::Detached,
        }
    }
}

/// A request fails as a send does, less what only messages can be.
macro_rules! from_send_error {
    ($($error:ident),+) => {
        $(impl From<SendError> for $error {
            fn from(e: SendError) -> Self {
                match e {
                    SendError::MasterGone => Self::MasterGone,
                    SendError::WrongProcess => Self::WrongProcess,
                    SendError::Detached => Self::Detached,
                    SendError::Timeout => Self::Timeout,
                    SendError::BadName(name) => Self::BadName(name),
                    _ => Self::Full,
                }
            }
        })+
    };
}

from_send_error!(JoinError, LeaveError);
