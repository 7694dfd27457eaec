//! Those who live on when a master dies: sixteen receivers, two senders, and a newcomer that joins
//! and leaves; driven by the one thread of the harness, which can also become the next master. And
//! what they check.

use std::os::fd::AsRawFd;
use std::time::Duration;

use corecast::{Core, Hub, JoinError, Master, Overflow, RecvError, SendError, Stats};

use crate::arena;
use crate::common::doomed::Doomed;
use crate::figures::Faults;
use crate::world::{lowest_free_fd, read_eventfd};

/// Cores that every message must reach.
pub const FAN_OUT: u32 = 16;
const ROOM: &str = "room";
const FOREVER: Duration = Duration::from_secs(3600);
/// Turns of a successor within which everything must have come right.
const TURNS: u32 = 8;
const LANE: usize = 16 << 10;
const LARGEST: usize = 6000;

/// What the master has to do when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// To route messages to all.
    FanOut,
    /// Joins, of a channel that is there and of a new one, among messages.
    Join,
    /// A leave, and one of all channels, among messages.
    Leave,
    /// To clean up after a worker that has died with a subscription and unrouted messages.
    Reap,
    /// To go on in a run of messages alike, which ends early.
    Run,
}

/// A situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    pub work: Work,
    /// The master is itself a successor, of one that died after so many 16ths of its own work: its
    /// adoption is gone through too.
    pub after: Option<usize>,
    pub messages: u64,
    pub overflow: Overflow,
    /// Messages that some receivers have not taken yet: every other one half of them.
    pub unread: u64,
    /// Whether calls wait for a successor, or say that the master is gone.
    pub awaits: bool,
}

/// How a master is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// In truth it is only stopped.
    Presumed,
    Real,
}

pub struct Realm {
    pub hub: Hub,
    /// None while another process is the master.
    master: Option<Master>,
    receivers: Vec<Core>,
    senders: [Core; 2],
    newcomer: Core,
    reign: Reign,
    /// Bodies sent, in order; the first has number 0.
    sent: Vec<Vec<u8>>,
    /// For each receiver how many of them it has, or knows to be lost.
    received: Vec<usize>,
    faults: Faults,
    base: Stats,
}

impl Realm {
    pub fn new(reign: Reign) -> Self {
        let hub = Hub::builder()
            .workers(FAN_OUT)
            .extra(4)
            .channels(16)
            .lane_bytes(LANE)
            .queue_bytes(16 << 10)
            .arena_bytes(96 << 10)
            .slab_bytes(12 << 10)
            .max_message(LARGEST)
            .overflow(reign.overflow)
            .await_successor(reign.awaits)
            .answer_timeout(FOREVER)
            .create()
            .expect("a hub");
        let mut master = hub.master().expect("a master");
        let receivers: Vec<Core> = (0..FAN_OUT)
            .map(|worker| {
                let mut core = hub.attach(worker, 0).expect("a core");
                join(&mut core, ROOM, &mut master);
                core
            })
            .collect();
        let [first, second, newcomer] = [(); 3].map(|()| hub.attach_any().expect("a core"));
        now(&mut master);
        Self {
            base: hub.stats(),
            received: vec![0; receivers.len()],
            receivers,
            senders: [first, second],
            newcomer,
            master: Some(master),
            reign,
            sent: Vec::new(),
            faults: Faults::default(),
            hub,
        }
    }

    /// Everything up to where the master has its work before it; then there is none.
    pub fn prepare(&mut self) {
        for _ in 0..self.reign.unread {
            self.send();
            now(self.master());
        }
        for receiver in 0..self.receivers.len() {
            let most = [usize::MAX, self.reign.unread as usize / 2][receiver % 2];
            self.hear(receiver, most);
        }
        match self.reign.work {
            Work::FanOut => self.send_some(),
            Work::Join => {
                self.send_some();
                for name in [ROOM, "own"] {
                    self.newcomer.join_async(name).expect("asked");
                }
                self.send();
                self.newcomer.send("own", b"to myself").expect("sent");
            }
            Work::Leave => {
                for name in ["a", "b", ROOM] {
                    join(
                        &mut self.newcomer,
                        name,
                        self.master.as_mut().expect("ours"),
                    );
                }
                self.send();
                self.newcomer.leave("a").expect("left");
                self.send_some();
                self.newcomer.leave_all().expect("left");
                self.send();
            }
            Work::Reap => self.lose_a_worker(),
            Work::Run => self.send_a_run(),
        }
        self.master = None;
    }

    fn send_some(&mut self) {
        (0..self.reign.messages).for_each(|_| self.send());
    }

    /// Sends a numbered message: most are small, some go to the arena by themselves.
    fn send(&mut self) {
        let result = self.try_send();
        result.expect("the lane has room");
    }

    fn try_send(&mut self) -> Result<(), SendError> {
        let body = body(self.sent.len());
        self.senders[self.sent.len() % 2].send(ROOM, &body)?;
        self.sent.push(body);
        Ok(())
    }

    /// Messages alike of one sender, a run of some more of which the master routes the first, and others
    /// behind it.
    fn send_a_run(&mut self) {
        for _ in 0..2 {
            self.send_alike(|core, body| core.send(ROOM, body));
        }
        self.send_alike(|core, body| core.send_in_a_run(ROOM, body));
        self.send_alike(|core, body| core.send(ROOM, body));
        now(self.master());
        for _ in 0..3 {
            self.send_alike(|core, body| core.send(ROOM, body));
        }
        assert!(self.senders[0].is_in_a_run());
        self.send_some();
    }

    fn send_alike(&mut self, send: impl FnOnce(&mut Core, &[u8]) -> Result<(), SendError>) {
        let number = self.sent.len() as u64;
        let body = [number.to_le_bytes(), (!number).to_le_bytes()].concat();
        send(&mut self.senders[0], &body).expect("the lane has room");
        self.sent.push(body);
    }

    /// A worker that has joined and sent, is dead, and of whose death no master knows.
    fn lose_a_worker(&mut self) {
        let body = body(self.sent.len() + 1);
        let worker = Doomed::new(&self.hub, ROOM, &body, arena::leave);
        now(self.master());
        self.send();
        worker.send();
        self.sent.push(body);
        self.send_some();
        worker.die();
    }

    fn master(&mut self) -> &mut Master {
        self.master.as_mut().expect("we are the master")
    }

    /// A receiver takes up to `most` messages, each of which must be the next. What its last
    /// `recv` said, if it was no message.
    fn hear(&mut self, receiver: usize, most: usize) -> Option<Result<(), RecvError>> {
        let core = &mut self.receivers[receiver];
        let (next, faults) = (&mut self.received[receiver], &mut self.faults);
        for _ in 0..most {
            match core.recv() {
                Ok(Some(message)) => {
                    let number = message.body.first_chunk().map(|b| u64::from_le_bytes(*b));
                    let number = number.map_or(usize::MAX, |n| n as usize);
                    if self.sent.get(number).is_none_or(|b| b != message.body) {
                        faults.torn += 1;
                    } else if number < *next {
                        faults.duplicates += 1;
                    } else {
                        faults.lost += (number - *next) as u64;
                        *next = number + 1;
                    }
                }
                Ok(None) => return Some(Ok(())),
                Err(RecvError::Lagged(n)) => {
                    faults.lost += u64::from(self.reign.overflow == Overflow::Block);
                    *next += n as usize;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// The master is dead. Those who are left go on as they can, one becomes the next master, and
    /// all must come right. `variant` chooses who does what before there is one.
    pub fn succeed(&mut self, death: Death, variant: usize) -> Faults {
        self.faults = Faults::default();
        if death == Death::Presumed {
            self.hub.presume_master_dead();
        }
        self.live_without(variant);
        for core in &self.receivers {
            read_eventfd(core.as_raw_fd());
        }
        let before = self.received.clone();
        match self.hub.master() {
            Ok(master) => self.master = Some(master),
            Err(_) => self.faults.stalls += 1,
        }
        if self.master.is_some() {
            self.come_right(&before);
            self.check_newcomer();
            self.master = None;
        }
        std::mem::take(&mut self.faults)
    }

    /// Some take what they see, so that control words change under the dead hand; some send.
    fn live_without(&mut self, variant: usize) {
        let awaits = self.reign.awaits;
        for receiver in (0..self.receivers.len()).filter(|r| (r + variant) % 3 == 0) {
            let end = self.hear(receiver, usize::MAX);
            let expected = if awaits {
                Ok(())
            } else {
                Err(RecvError::MasterGone)
            };
            self.faults.stalls += u64::from(end != Some(expected));
        }
        if awaits {
            if variant % 2 == 0 {
                let sent = self.try_send();
                self.faults.stalls += u64::from(!matches!(sent, Ok(()) | Err(SendError::Full)));
            }
            return;
        }
        let sent = self.senders[0].send(ROOM, b"x");
        self.faults.stalls += u64::from(sent != Err(SendError::MasterGone));
        let joined = self.senders[0].join("new");
        self.faults.stalls += u64::from(joined != Err(JoinError::MasterGone));
    }

    fn come_right(&mut self, before: &[usize]) {
        self.turns();
        for (core, &had) in self.receivers.iter().zip(before) {
            let had_something = had < self.sent.len();
            let notified = read_eventfd(core.as_raw_fd());
            self.faults.stalls += u64::from(had_something && !notified);
        }
        if self.try_send().is_err() {
            self.faults.stalls += 1;
        }
        self.turns();
        let now = self.hub.stats();
        self.faults.torn += now.violations - self.base.violations;
    }

    /// Until everybody is up to date.
    fn turns(&mut self) {
        for _ in 0..TURNS {
            now(self.master());
            for receiver in 0..self.receivers.len() {
                let end = self.hear(receiver, usize::MAX);
                self.faults.torn += u64::from(end != Some(Ok(())));
            }
            if self.received.iter().all(|&n| n == self.sent.len()) {
                return;
            }
        }
        self.faults.stalls += 1;
    }

    /// What is on its way when the newcomer leaves does not come any more. What was broken: an operation
    /// that the master died in was carried out once more, and counted twice.
    fn leave_with_mail(&mut self) {
        self.faults.stalls += u64::from(self.try_send().is_err());
        now(self.master());
        self.newcomer.leave_all().expect("left");
        let stray = !matches!(self.newcomer.recv(), Ok(None));
        self.faults.duplicates += u64::from(stray);
    }

    /// What the newcomer gets, and what is left when it has left.
    fn check_newcomer(&mut self) {
        let mut got = Vec::new();
        while let Ok(Some(message)) = self.newcomer.recv() {
            got.push(message.body.to_vec());
        }
        if self.reign.work == Work::Join {
            let first = self.reign.unread as usize + self.reign.messages as usize;
            let mut expected: Vec<_> = self.sent[first..].to_vec();
            expected.insert(1, b"to myself".to_vec());
            self.faults.lost += u64::from(got != expected);
            let now = self.hub.stats();
            self.faults.lost +=
                self.base.subscriptions + 2 - now.subscriptions.min(self.base.subscriptions + 2);
            self.faults.leaks += u64::from(now.channels != self.base.channels + 1);
            self.leave_with_mail();
            now_and_then(self.master());
        } else {
            self.faults.duplicates += got.len() as u64;
        }
        let (now, base) = (self.hub.stats(), self.base);
        let held = |s: Stats| (s.cores, s.subscriptions, s.channels);
        self.faults.leaks += u64::from(held(now) != held(base));
    }
}

/// Message number `n`.
fn body(n: usize) -> Vec<u8> {
    let len = match n % 8 {
        3 => 1500,
        6 => 4500,
        _ => 8 + n % 300,
    };
    let mut body: Vec<u8> = (0..len).map(|i| (n * 31 + i * 7) as u8).collect();
    body[..8].copy_from_slice(&(n as u64).to_le_bytes());
    body
}

/// The work of the master that dies.
pub fn route(master: &mut Master) {
    while master.step() > 0 {}
}

/// All that there is to do, the deaths of workers included.
pub fn now(master: &mut Master) {
    while master.poll(Some(Duration::ZERO)).expect("polled") > 0 {}
}

fn now_and_then(master: &mut Master) {
    (0..2).for_each(|_| now(master));
}

fn join(core: &mut Core, name: &str, master: &mut Master) {
    let ticket = core.join_async(name).expect("asked");
    now(master);
    core.join_result(ticket).expect("answered").expect("joined");
}

/// What the next descriptor would be.
pub fn free_fd() -> i32 {
    lowest_free_fd()
}
