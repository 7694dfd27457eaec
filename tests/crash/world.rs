//! Those who must not notice: a master, a listener and a speaker, all driven by the one thread of
//! the harness, and what they check after a death.

use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use corecast::{Core, Hub, Master, RecvError, Sender, Stats};

use crate::body::{LEAST, Said, Who};
use crate::figures::Faults;
use crate::victim::Scenario;

/// The victim speaks here, and the listener hears it.
pub const ROOM: &str = "room";
/// The speaker speaks here, and the listener hears it.
pub const STEADY: &str = "steady";
/// The victim's own channel.
pub const OWN: &str = "own";
/// Turns of the master within which everything must have come right again.
const TURNS: u32 = 8;
/// Channels that the hub can have.
pub const CHANNELS: u32 = 8;
const FOREVER: Duration = Duration::from_secs(3600);

/// What the listener may expect of the victim.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Messages whose send has returned.
    pub returned: u64,
    /// Messages that the call under way may have published as well.
    pub under_way: u64,
}

/// How a death comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The master is told of it after this many turns; in truth the worker is only stopped.
    Told { after: u32 },
    /// The process has been killed; the master finds out by itself.
    Real,
}

/// A second notice of the same death, when the slot has its next owner already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// From the host: the master looks at who holds the slot now.
    Checked,
    /// As if the master reaped by the number of the slot alone: shows that it would be noticed.
    #[cfg(debug_assertions)]
    Unchecked,
}

pub struct World {
    pub hub: Hub,
    pub master: Master,
    listener: Core,
    speaker: Core,
    /// Messages of the speaker to [`STEADY`].
    pub said: u64,
    pub late: Late,
    heard: Heard,
    base: Stats,
    /// The lowest free descriptor when nobody else is there.
    free_fd: RawFd,
}

/// What the listener has heard, and what was wrong with it.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// The number expected next of each.
    peer: u64,
    victim: u64,
    faults: Faults,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let hub = Hub::builder()
            .workers(1)
            .extra(2)
            .channels(CHANNELS)
            .lane_bytes(4096)
            .queue_bytes(8192)
            // Each page of it is looked at after each death.
            .arena_bytes(96 << 10)
            .slab_bytes(12 << 10)
            .max_message(1500)
            .overflow(scenario.overflow)
            .isolation(!scenario.assists)
            .assist(scenario.assists)
            .answer_timeout(FOREVER)
            .create()
            .expect("a hub");
        let mut master = hub.master().expect("a master");
        let [mut listener, speaker] = [(); 2].map(|()| hub.attach_any().expect("an extra core"));
        for name in [ROOM, STEADY] {
            let ticket = listener.join_async(name).expect("asked");
            master.step();
            let joined = listener.join_result(ticket).expect("answered");
            joined.expect("joined");
        }
        settle(&mut master);
        let mut world = Self {
            base: hub.stats(),
            hub,
            master,
            listener,
            speaker,
            said: 0,
            late: Late::Checked,
            heard: Heard::default(),
            free_fd: lowest_free_fd(),
        };
        world.say();
        world.turn();
        world
    }

    /// Lets the master work until nothing moves, and hears what comes.
    pub fn turn(&mut self) {
        settle(&mut self.master);
        self.hear();
    }

    /// Takes the victim, which has just sent something, for one that streams.
    pub fn favour(&mut self) {
        self.master.step();
        assert_eq!(self.master.presume_stream(0), 1, "the victim's lane");
        self.hear();
    }

    /// The master sleeps: from now on others may do its work.
    pub fn sleep(&mut self) {
        self.master.poll(Some(Duration::ZERO)).expect("polled");
        self.hear();
    }

    /// One message of the speaker to the listener.
    pub fn say(&mut self) {
        let said = Said {
            who: Who::Peer,
            number: self.said,
            floor: 0,
        };
        let sent = self.speaker.send(STEADY, &said.bytes(LEAST));
        sent.expect("the speaker's lane has room");
        self.said += 1;
    }

    /// The same when `returned` sends of the victim have returned: it must come after them.
    fn say_after(&mut self, returned: u64) {
        let said = Said {
            who: Who::Peer,
            number: self.said,
            floor: returned,
        };
        let sent = self.speaker.send(STEADY, &said.bytes(LEAST));
        sent.expect("the speaker's lane has room");
        self.said += 1;
    }

    /// `count` messages, numbered from `first`, for the victim alone; fewer when one is lost or
    /// some do not move any more. Returns how many.
    pub fn mail(&mut self, first: u64, count: u64, len: usize) -> u64 {
        let before = self.hub.stats();
        for sent in 0..count {
            let said = Said {
                who: Who::Peer,
                number: first + sent,
                floor: 0,
            };
            let result = self.speaker.send(OWN, &said.bytes(len));
            result.expect("the speaker's lane has room");
            self.turn();
            let now = self.hub.stats();
            let stuck = before.messages + sent + 1 - now.messages;
            if now.lost > before.lost || stuck * len as u64 > 300 || stuck > 2 {
                return sent + 1;
            }
        }
        count
    }

    /// Joins channels until there are `most`.
    pub fn take_channels(&mut self, most: u32) {
        for n in 0.. {
            if self.hub.stats().channels >= u64::from(most) {
                break;
            }
            let name = format!("taken {n}");
            self.listener.join_async(name).expect("asked");
            self.turn();
        }
        // Without the victim's own channel.
        self.base.channels = u64::from(most) - 1;
        self.base.subscriptions = self.hub.stats().subscriptions - 1;
    }

    pub fn tell_of_death(&mut self) {
        self.hub.worker_died(0).expect("the master's process");
    }

    /// The victim has been killed; lets the master find out.
    pub fn see_death(&mut self) {
        self.tell_of_death();
        for _ in 0..TURNS {
            self.once(Death::Real);
        }
        self.heard.faults = Faults::default();
    }

    pub fn hear(&mut self) {
        self.heard.take(&mut self.listener);
    }

    /// Sends `count` messages and hears them; whatever the victim is doing, each must come. Every
    /// eighth time there is one for the victim too, numbered from `mailed`; returns the number of
    /// the next.
    pub fn go_on(&mut self, count: u64, returned: u64, mut mailed: u64) -> (Faults, u64) {
        self.heard.faults = Faults::default();
        for n in 0..count {
            if n % 8 == 7 {
                mailed += self.mail(mailed, 1, LEAST);
            }
            self.say_after(returned);
            self.master.step();
            self.hear();
        }
        let mut turns = 0;
        while turns < TURNS && self.heard.peer != self.said {
            self.once(Death::Told { after: 0 });
            turns += 1;
        }
        let mut faults = std::mem::take(&mut self.heard.faults);
        faults.stalls += u64::from(self.heard.peer != self.said);
        (faults, mailed)
    }

    /// Checks what has come of the victim's messages so far.
    pub fn heard_of_victim(&self, expected: Expected) -> Faults {
        let Expected {
            returned,
            under_way,
        } = expected;
        Faults {
            lost: returned.saturating_sub(self.heard.victim),
            torn: self.heard.victim.saturating_sub(returned + under_way),
            ..Faults::default()
        }
    }

    /// The victim's death and what must follow.
    pub fn recover(&mut self, death: Death, expected: Expected) -> Faults {
        self.heard.faults = Faults::default();
        self.arm();
        self.say_after(expected.returned);
        if let Death::Told { after } = death {
            (0..after).for_each(|_| _ = self.master.step());
            self.master.presume_dead(0);
        }
        let mut turns = 0;
        while turns < TURNS && !self.is_well() {
            self.once(death);
            turns += 1;
        }
        let mut faults = self.heard_of_victim(expected);
        faults += std::mem::take(&mut self.heard.faults);
        faults.stalls += u64::from(!self.was_notified());
        faults.stalls += u64::from(self.heard.peer != self.said);
        faults += self.compare();
        faults += self.rebirth(death);
        faults.leaks += u64::from(lowest_free_fd() != self.free_fd);
        faults
    }

    fn once(&mut self, death: Death) {
        if death == Death::Real {
            self.master.poll(Some(Duration::ZERO)).expect("polled");
        } else {
            self.master.step();
        }
        self.hear();
    }

    fn is_well(&self) -> bool {
        self.heard.peer == self.said && self.hub.stats().cores == self.base.cores
    }

    /// All that was counted before the victim came is as it was.
    fn compare(&self) -> Faults {
        let (now, base) = (self.hub.stats(), self.base);
        let mut leaks = u64::from(now.cores != base.cores);
        leaks += u64::from(now.subscriptions != base.subscriptions);
        leaks += u64::from(now.channels != base.channels);
        Faults {
            leaks,
            torn: now.violations - base.violations,
            ..Faults::default()
        }
    }

    /// Whoever gets the slot next finds nothing of the last owner's.
    fn rebirth(&mut self, death: Death) -> Faults {
        let mut faults = Faults::default();
        // What was broken: the slot of a core that was killed right after it had taken it, before
        // it rang, was not free at the second try either.
        let mut core = self.hub.attach_any();
        if core.is_err() {
            self.once(death);
            core = self.hub.attach_any();
        }
        let Ok(mut core) = core else {
            faults.leaks += 1;
            return faults;
        };
        let ticket = core.join_async(ROOM).expect("asked");
        self.once(death);
        let joined = core.join_result(ticket);
        faults.stalls += u64::from(joined.is_none());
        faults.leaks += u64::from(matches!(joined, Some(Err(_))));
        self.notice_again();
        let said = Said {
            who: Who::Victim,
            number: self.heard.victim,
            floor: self.said,
        };
        let sent = core.send(ROOM, &said.bytes(LEAST));
        faults.stalls += u64::from(sent.is_err());
        self.once(death);
        let me = core.me();
        match core.recv() {
            Ok(Some(m)) if m.body == said.bytes(LEAST) && m.sender == me => {}
            Ok(Some(_)) => faults.duplicates += 1,
            Ok(None) => faults.stalls += 1,
            Err(RecvError::Lagged(_)) => faults.lost += 1,
            Err(_) => faults.torn += 1,
        }
        faults.duplicates += u64::from(core.recv() != Ok(None));
        faults.leaks += u64::from(core.lost() != 0);
        let others = [self.listener.me(), me];
        let mut subscribers: Vec<Sender> = self.hub.subscribers(ROOM);
        subscribers.sort_unstable();
        faults.leaks += u64::from(!subscribers.iter().all(|s| others.contains(s)));
        drop(core);
        (0..TURNS).for_each(|_| self.once(death));
        faults += std::mem::take(&mut self.heard.faults);
        faults += self.compare();
        faults
    }

    fn notice_again(&mut self) {
        match self.late {
            Late::Checked => {
                self.tell_of_death();
                self.once(Death::Real);
            }
            #[cfg(debug_assertions)]
            Late::Unchecked => {
                self.master.presume_dead(0);
                self.once(Death::Told { after: 0 });
            }
        }
    }

    /// The listener has taken everything, and will be notified of the next message.
    fn arm(&mut self) {
        self.hear();
        read_eventfd(self.listener.as_raw_fd());
    }

    fn was_notified(&self) -> bool {
        read_eventfd(self.listener.as_raw_fd())
    }
}

impl Heard {
    fn take(&mut self, listener: &mut Core) {
        loop {
            match listener.recv() {
                Ok(Some(message)) => match Said::read(message.body) {
                    Some(said) => self.hear(said),
                    None => self.faults.torn += 1,
                },
                Ok(None) => return,
                Err(RecvError::Lagged(n)) => self.faults.lost += n,
                Err(_) => {
                    self.faults.torn += 1;
                    return;
                }
            }
        }
    }

    fn hear(&mut self, said: Said) {
        let (next, other) = match said.who {
            Who::Peer => (&mut self.peer, self.victim),
            Who::Victim => (&mut self.victim, self.peer),
        };
        self.faults.disorder += u64::from(other < said.floor);
        if said.number < *next {
            self.faults.duplicates += 1;
            return;
        }
        self.faults.lost += said.number - *next;
        *next = said.number + 1;
    }
}

/// Lets a master work until nothing moves.
pub fn settle(master: &mut Master) {
    // A pass that routes nothing may still answer or reap; the second says that it is over.
    let mut idle = 0;
    while idle < 2 {
        idle = if master.step() == 0 { idle + 1 } else { 0 };
    }
}

/// Whether the eventfd has been written since the last look.
pub fn read_eventfd(fd: RawFd) -> bool {
    let mut count = 0u64;
    // SAFETY: eight bytes into a live local; the descriptor is non-blocking.
    unsafe { libc::read(fd, (&raw mut count).cast(), 8) == 8 && count > 0 }
}

/// What the next descriptor opened would be: one that leaks shows here.
pub fn lowest_free_fd() -> RawFd {
    // SAFETY: a duplicate of stderr, closed at once; no memory involved.
    unsafe {
        let fd = libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 0);
        libc::close(fd);
        fd
    }
}
