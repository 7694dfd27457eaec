//! The victim: a forked worker that gets itself into some situation, and then makes one call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use corecast::{Channel, Core, Hub, Overflow, RecvError, SendError};

use crate::arena;
use crate::body::{Said, Who};
use crate::common::{LONG, shared_words};
use crate::step::pause;
use crate::world::{OWN, ROOM};

/// The call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Send,
    /// To a channel that nobody has joined.
    SendUnheard,
    /// To another channel than the last time.
    SendElsewhere,
    /// To a resolved channel.
    SendTo,
    /// Three messages at once.
    SendMany,
    /// A loan that is filled and sent.
    Loan,
    /// A loan that is filled and dropped.
    LoanDropped,
    Recv,
    /// Until nothing is left.
    RecvAll,
    Join,
    /// A channel that others have joined.
    JoinRoom,
    /// While the hub has as many channels as it can have.
    JoinTooMany,
    Open,
    Close,
    Leave,
    LeaveAll,
    Attach,
    Detach,
    Drop,
    /// Not a call that anybody could make: shows that the harness would notice.
    #[cfg(debug_assertions)]
    SendCommittedFirst,
}

impl Call {
    /// Messages to the room that it sends.
    pub fn messages(self) -> u64 {
        match self {
            Self::Send | Self::SendTo | Self::SendElsewhere | Self::Loan => 1,
            Self::SendMany => 3,
            #[cfg(debug_assertions)]
            Self::SendCommittedFirst => 1,
            _ => 0,
        }
    }
}

/// How much is in the lane, or in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Empty,
    /// So many messages.
    Some(u64),
    /// As many as it takes until there is no room.
    Full,
}

/// Whether the call comes in a stream, for which the lane is biased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    No,
    /// The lane is biased, and the victim knows.
    Goes,
    /// The bias has been revoked since, and the lane armed.
    Ended,
    /// The lane is biased, and the victim has begun a run in it.
    Run,
}

/// A situation and a call in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub call: Call,
    /// Bytes of each message.
    pub len: usize,
    /// Messages sent, and received, before: they move the places where things are written.
    pub lead: u64,
    /// What is in the lane, not yet routed.
    pub lane: Fill,
    /// What is in the queue, not yet received.
    pub mail: Fill,
    pub overflow: Overflow,
    /// In assist mode, and the master is asleep when the call comes: the victim does its work.
    pub assists: bool,
    pub stream: Stream,
}

/// What the victim asks of the harness when it pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Wish {
    /// Let the master work.
    Turn,
    /// Let the master work until I pause again: I am about to wait for it.
    Work,
    /// Send me messages: `count` says how many; `u64::MAX`: until one is lost or none moves.
    Mail,
    /// Take all channels.
    TakeChannels,
    /// Take me for one that streams.
    Stream,
    /// The call comes next.
    Ready,
}

impl Wish {
    const ALL: [Self; 6] = [
        Self::Turn,
        Self::Work,
        Self::Mail,
        Self::TakeChannels,
        Self::Stream,
        Self::Ready,
    ];
}

/// What a victim sends to its own channel.
const MYSELF: &[u8] = b"to myself";

/// Words shared by the victim and the harness.
#[derive(Clone, Copy)]
pub struct Board(&'static [AtomicU64]);

macro_rules! words {
    ($($get:ident $set:ident $index:literal: $doc:literal,)+) => {$(
        #[doc = $doc]
        pub fn $get(self) -> u64 {
            self.0[$index].load(Ordering::SeqCst)
        }

        pub fn $set(self, value: u64) {
            self.0[$index].store(value, Ordering::SeqCst);
        }
    )+};
}

impl Board {
    pub fn new() -> Self {
        Self(shared_words(8))
    }

    words! {
        wish_word set_wish_word 0: "A [`Wish`].",
        count set_count 1: "Its argument.",
        returned set_returned 2: "Messages to the room whose send has returned.",
        done set_done 3: "1 when the call has returned.",
        laid set_laid 4: "Messages that filled the lane.",
        mailed set_mailed 5: "Messages sent to the victim alone.",
        alone set_alone 7: "1 when nobody traces the victim any more.",
        said set_said 6: "Messages of the speaker, all told.",
    }

    pub fn wish(self) -> Wish {
        Wish::ALL[self.wish_word() as usize]
    }

    pub fn clear(self) {
        self.0.iter().for_each(|w| w.store(0, Ordering::SeqCst));
    }

    fn ask(self, wish: Wish) {
        self.set_wish_word(wish as u64);
        pause();
    }
}

/// The victim, before its call.
struct Victim<'a> {
    hub: &'a Hub,
    board: Board,
    scenario: Scenario,
    core: Option<Core>,
    channel: Option<Channel>,
    /// Messages to the room so far.
    number: u64,
    /// Messages for it alone that it has received, or knows to be lost.
    got: u64,
    inbox: Inbox,
}

/// Runs in the child, under ptrace up to the call.
pub fn live(hub: &Hub, scenario: Scenario, board: Board) {
    arena::leave();
    let mut victim = Victim {
        hub,
        board,
        scenario,
        core: None,
        channel: None,
        number: 0,
        got: 0,
        inbox: Inbox::new(),
    };
    victim.prepare();
    victim.act();
    if board.alone() == 1 {
        victim.go_on();
    } else {
        pause();
    }
}

impl Victim<'_> {
    fn prepare(&mut self) {
        if self.scenario.call == Call::Attach {
            // The slot may have had owners, also this process. What was broken: a forked worker
            // that had detached its last core could not attach again.
            for _ in 0..self.scenario.lead {
                let mut core = self.hub.attach(0, 0).expect("a core");
                core.join_async(OWN).expect("asked");
                core.detach().expect("detached");
                self.board.ask(Wish::Turn);
            }
            return;
        }
        self.core = Some(self.hub.attach(0, 0).expect("a core"));
        self.board.ask(Wish::Turn);
        self.join(OWN);
        for _ in 0..self.scenario.lead {
            self.send();
            self.board.ask(Wish::Turn);
            self.get_mail(1);
            self.receive_all();
        }
        self.prepare_for_call();
        match self.scenario.mail {
            Fill::Empty => {}
            Fill::Some(n) => self.get_mail(n),
            Fill::Full => self.get_mail(u64::MAX),
        }
        self.start_stream();
        self.fill_lane();
    }

    /// The first message finds the lane active, the second the bias.
    fn start_stream(&mut self) {
        if self.scenario.stream == Stream::No {
            return;
        }
        self.send();
        self.board.ask(Wish::Stream);
        self.send();
        match self.scenario.stream {
            Stream::Ended => self.board.ask(Wish::Turn),
            Stream::Run => {
                let body = self.next_body();
                let sent = self.core().send_in_a_run(ROOM, &body);
                sent.expect("room in the lane");
                self.board.set_returned(self.number);
            }
            _ => {}
        }
    }

    fn prepare_for_call(&mut self) {
        match self.scenario.call {
            Call::SendTo | Call::Close => {
                self.board.ask(Wish::Work);
                self.channel = self.core().channel(ROOM).ok();
                self.board.ask(Wish::Turn);
            }
            Call::SendElsewhere => {
                self.core().send(OWN, MYSELF).expect("sent");
                self.board.ask(Wish::Turn);
                self.receive_all();
            }
            Call::LeaveAll | Call::Detach => self.join("another"),
            Call::JoinTooMany => self.board.ask(Wish::TakeChannels),
            _ => {}
        }
    }

    fn core(&mut self) -> &mut Core {
        self.core.as_mut().expect("attached")
    }

    fn join(&mut self, name: &str) {
        let ticket = self.core().join_async(name).expect("asked");
        self.board.ask(Wish::Turn);
        let joined = self.core().join_result(ticket).expect("answered");
        joined.expect("joined");
    }

    fn next_body(&mut self) -> Vec<u8> {
        let said = Said {
            who: Who::Victim,
            number: self.number,
            floor: self.board.said(),
        };
        self.number += 1;
        said.bytes(self.scenario.len)
    }

    fn send(&mut self) -> bool {
        let body = self.next_body();
        let sent = self.core().send(ROOM, &body);
        let ok = sent.is_ok();
        if !ok {
            assert_eq!(sent, Err(SendError::Full));
            self.number -= 1;
        }
        self.board.set_returned(self.number);
        ok
    }

    fn get_mail(&mut self, count: u64) {
        self.board.set_count(count);
        self.board.ask(Wish::Mail);
    }

    fn receive_all(&mut self) {
        let core = self.core.as_mut().expect("attached");
        while self.inbox.receive(core) {}
        self.got = self.inbox.check(self.got);
    }

    fn fill_lane(&mut self) {
        let limit = match self.scenario.lane {
            Fill::Empty => 0,
            Fill::Some(n) => n,
            Fill::Full => u64::MAX,
        };
        let mut laid = 0;
        while laid < limit && self.send() {
            laid += 1;
        }
        self.board.set_laid(laid);
    }

    fn act(&mut self) {
        let bodies: Vec<Vec<u8>> = (0..3).map(|_| self.next_body()).collect();
        self.number -= 3;
        self.board.ask(Wish::Ready);
        let sent = self.call(&bodies);
        self.number += sent;
        self.board.set_returned(self.number);
        self.board.set_done(1);
    }

    /// After a call in which it was stopped: everything works, nothing is missing.
    fn go_on(&mut self) {
        let Some(mut core) = self.core.take() else {
            return;
        };
        let body = self.next_body();
        core.send_timeout(ROOM, &body, LONG).expect("sent");
        self.board.set_returned(self.number);
        self.got = self.inbox.check(self.got);
        let start = Instant::now();
        while core.joined() > 0 && self.got < self.board.mailed() {
            self.inbox.receive(&mut core);
            self.got = self.inbox.check(self.got);
            assert!(start.elapsed() < LONG, "mail is missing: {}", self.got);
        }
        core.detach().expect("detached");
    }

    /// The call, between two pauses. Returns how many messages to the room it sent.
    #[inline(never)]
    fn call(&mut self, bodies: &[Vec<u8>]) -> u64 {
        let core = self.core.as_mut();
        let Some(core) = core else {
            self.core = Some(self.hub.attach(0, 0).expect("a core"));
            return 0;
        };
        let nothing = match self.scenario.call {
            Call::Send | Call::SendElsewhere => return core.send(ROOM, &bodies[0]).is_ok().into(),
            Call::SendTo => {
                let channel = self.channel.expect("opened");
                return core.send_to(channel, &bodies[0]).is_ok().into();
            }
            Call::SendMany => return core.send_many(ROOM, bodies).map_or(0, |n| n as u64),
            Call::Loan => {
                let Ok(mut loan) = core.loan(ROOM, bodies[0].len()) else {
                    return 0;
                };
                loan.copy_from_slice(&bodies[0]);
                loan.send();
                return 1;
            }
            Call::LoanDropped => {
                let loan = core.loan(ROOM, bodies[0].len());
                loan.is_ok_and(|mut loan| {
                    loan.copy_from_slice(&bodies[0]);
                    true
                })
            }
            Call::SendUnheard => core.send("nobody", &bodies[0]).is_ok(),
            Call::Recv => self.inbox.receive(core),
            Call::RecvAll => {
                while self.inbox.receive(core) {}
                true
            }
            Call::Join | Call::JoinTooMany => core.join("new").is_ok(),
            Call::JoinRoom => core.join(ROOM).is_ok(),
            Call::Open => core.channel("new").is_ok(),
            Call::Close => core.close(self.channel.expect("opened")).is_ok(),
            Call::Leave => core.leave(OWN).is_ok(),
            Call::LeaveAll => core.leave_all().is_ok(),
            Call::Detach => self.core.take().is_some_and(|core| core.detach().is_ok()),
            Call::Drop => self.core.take().is_some(),
            Call::Attach => unreachable!("not attached yet"),
            #[cfg(debug_assertions)]
            Call::SendCommittedFirst => {
                return core.send_committed_first(ROOM, &bodies[0]).is_ok().into();
            }
        };
        std::hint::black_box(nothing);
        0
    }
}

/// What has been received and not yet looked at.
struct Inbox {
    bytes: Vec<u8>,
    /// Where each message for the victim alone ends in `bytes`; None: so many were lost.
    ends: Vec<Result<usize, u64>>,
}

impl Inbox {
    fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(1 << 16),
            ends: Vec::with_capacity(1 << 10),
        }
    }

    /// Takes one message; false when there is none.
    fn receive(&mut self, core: &mut Core) -> bool {
        match core.recv() {
            Ok(Some(message)) => {
                if message.name == OWN.as_bytes() && message.body != MYSELF {
                    self.bytes.extend_from_slice(message.body);
                    self.ends.push(Ok(self.bytes.len()));
                }
                true
            }
            Ok(None) => false,
            Err(RecvError::Lagged(n)) => {
                self.ends.push(Err(n));
                true
            }
            Err(e) => panic!("{e}"),
        }
    }

    /// Checks what was received, message number `next` first; returns the number after the last.
    fn check(&mut self, mut next: u64) -> u64 {
        let mut start = 0;
        for end in self.ends.drain(..) {
            let Ok(end) = end else {
                next += end.unwrap_err();
                continue;
            };
            let said = Said::read(&self.bytes[start..end]).expect("a whole message");
            assert_eq!((said.who, said.number), (Who::Peer, next));
            (start, next) = (end, next + 1);
        }
        self.bytes.clear();
        next
    }
}
