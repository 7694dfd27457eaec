//! The master: holds the router, sleeps, notifies, watches the workers.
//!
//! Everything that needs a system call is here. One loop serves both forms: driven by the host
//! ([`Master::poll`]) or on a thread of its own ([`MasterThread`]).

mod guests;
mod role;
mod thread;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::assist::make_router;
use crate::barrier;
use crate::doorbell::Claim;
use crate::error::MasterError;
use crate::guests::UNSEEN;
use crate::hub::Inner;
use crate::linger::{self, Linger};
use crate::liveness::Liveness;
use crate::memory::Place;
use crate::process::start_tick;
use crate::region::OsError;
use crate::router::Router;
use crate::shared::{Born, MasterState};
use crate::sync::Ordering;
use role::{become_the_master, claim, take_over};
pub use thread::MasterThread;

/// Routes messages and cleans up after dead workers. One process has it at a time; dropping it
/// tells all cores that the master is gone, and lets another one start.
#[derive(Debug)]
pub struct Master {
    hub: Arc<Inner>,
    /// Always there, until drop gives it back to the hub.
    router: Option<Place<Router>>,
    epoll: Arc<Epoll>,
    liveness: Liveness,
    /// For the moment before it sleeps: what it has sent may be answered.
    linger: Linger,
    /// For the moments in which receivers have enough to do.
    respite: Linger,
    /// Events have been taken that nobody has handled.
    has_missed: bool,
    pid: u32,
}

/// Passes in a row before the master looks at its descriptors.
const PASSES: u32 = 256;
/// Messages in one pass from which on senders are taken to stream: then sleepers are woken for
/// many at once, and lanes are left alone for a moment, so that a pass finds more and takes the
/// senders' cache lines away less often.
const STREAM: u64 = 8;
/// Bytes in one pass that make a stream as well: a few large messages take their receivers as long.
const BULK: usize = 32 << 10;
/// How long a wake is put off at most while senders stream.
const HOLD: Duration = Duration::from_micros(50);
/// How long a master on a thread of its own looks for more before it sleeps, if that is mostly worth it:
/// for an answer, without being woken once more.
const LINGER: Duration = Duration::from_micros(20);
/// How long a master waits for a helper that makes no progress before it says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a store can stay in a store buffer, many times over.
const DRAINED: Duration = Duration::from_millis(10);
/// Turns of [`Master::pause`], one to three microseconds.
const PAUSE: usize = 64;
/// The same while one sender streams on and on. The more of them there are, the more a pass finds
/// without.
const LONG_PAUSE: usize = 256;
/// No sleep, only a look.
const NOT_AT_ALL: Option<Duration> = Some(Duration::ZERO);
/// How soon the master tries again what failed for want of descriptors: nobody tells when there are some.
const RETRY: Duration = Duration::from_secs(1);

impl Master {
    pub(crate) fn new(hub: Arc<Inner>) -> Result<Self, MasterError> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(OsError::of("epoll_create1"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, u64::MAX);
        epoll
            .add(&hub.router_fd, event)
            .map_err(OsError::of("epoll_ctl"))?;
        if !hub.view.is_whole() {
            return Err(MasterError::WrongProcess);
        }
        become_the_master(&hub)?;
        let pid = hub.mark.enter();
        let mut router = take_over(&hub)?;
        // A predecessor may have died between revoking a bias and the barrier that goes with it. In
        // assist mode the lanes must be armed by whoever comes along.
        router.may_bias = barrier::heavy() && !hub.view.config.assist;
        let epoll = Arc::new(epoll);
        let mut master = Self {
            liveness: Liveness::new(Arc::clone(&epoll), hub.view.layout.slots),
            router: Some(router),
            linger: Linger::of(LINGER, linger::SELDOM),
            respite: Linger::default(),
            has_missed: false,
            epoll,
            pid,
            hub,
        };
        master.look_at_all();
        if master.hub.guests.be_due() {
            master.hub.notify_router(); // or a host's own loop would not know that it must call
        }
        let hub = Arc::clone(&master.hub);
        for &(slot, holder) in &hub.left_behind {
            if hub.view.slot(slot).load() == holder {
                master.router().reap(slot);
            }
        }
        master.notify();
        Ok(master)
    }

    /// Routes what is there; if there is nothing, waits for it, at most `timeout` (None: as long
    /// as it takes). Returns the number of messages routed. A signal ends the wait.
    ///
    /// When it returns, [`AsFd::as_fd`] becomes readable as soon as there is work again.
    ///
    /// # Errors
    /// This is not the process that made the master. In assist mode [`MasterError::Assisted`] when a
    /// worker is in the middle of the master's work and has made no progress for a second: nothing is
    /// lost by calling again.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<usize, MasterError> {
        self.check_process()?;
        self.keep_pulse();
        let deadline = timeout.map(|t| Instant::now() + t);
        let mut routed = self.take_events()?;
        loop {
            let (passed, idle) = self.work();
            routed += passed;
            let (asleep, left) = (idle && self.may_sleep(), remaining(deadline));
            if routed > 0 || left == NOT_AT_ALL {
                if !asleep {
                    // There is more to do, and nobody will ring for it: stay readable.
                    self.hub.notify_router();
                }
                return Ok(routed);
            }
            let events = self.wait(if asleep { left } else { NOT_AT_ALL })?;
            routed += self.handle(events);
            if events == Events::Interrupted {
                return Ok(routed);
            }
        }
    }

    /// One routing pass with its notifications; never waits. Returns the number of messages
    /// routed. For hosts that poll without sleeping; deaths are seen by [`Self::poll`] only.
    pub fn step(&mut self) -> usize {
        if self.claims() && self.claim().is_err() {
            return 0; // a helper makes no progress
        }
        let router = self.router();
        let before = router.stats.messages;
        router.step();
        self.notify();
        (self.router().stats.messages - before) as usize
    }

    /// For tests that show that they would notice: see [`crate::Sabotage`].
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub fn sabotage(&mut self, how: crate::Sabotage) {
        self.claim().expect("no helper is stopped");
        self.router().sabotage = how;
    }

    /// For tests that stop a worker somewhere and look at what would follow if it had died there:
    /// cleans up after all cores of `worker`, as after a death that was seen.
    #[doc(hidden)]
    pub fn presume_dead(&mut self, worker: u32) {
        if let Claim::Helped(slot) = self.hub.view.sleep.claim() {
            assert_eq!(self.hub.sender_of(slot).worker, worker, "a helper lives");
            assert!(self.hub.view.sleep.seize(slot), "a helper lives");
            self.start_anew();
        }
        let cores = self.hub.view.config.cores as usize;
        let first = worker as usize * cores;
        for slot in first..first + cores {
            self.look_at(slot);
            self.router().reap(slot);
        }
    }

    /// For tests of what happens to a sender in a stream, without the stream: biases the lanes of
    /// `worker` that are not armed, and returns their number.
    #[doc(hidden)]
    pub fn presume_stream(&mut self, worker: u32) -> usize {
        let cores = self.hub.view.config.cores as usize;
        let first = worker as usize * cores;
        let router = self.router();
        let lanes = first..first + cores;
        lanes.filter(|&slot| router.presume_stream(slot)).count()
    }

    fn router(&mut self) -> &mut Router {
        // The option is only emptied by drop.
        self.router.as_mut().expect("a master has its router")
    }

    /// The calling thread shows the cores that there is a master, if no other thread does.
    pub(crate) fn keep_pulse(&self) {
        let pulse = &self.hub.view.header.pulse;
        if !pulse.beats() {
            pulse.begin();
        }
    }

    fn check_process(&self) -> Result<(), MasterError> {
        if self.hub.mark.current() != self.pid {
            return Err(MasterError::WrongProcess);
        }
        Ok(())
    }

    /// Passes until nothing moves, or it is time to look at what else there is: deaths must be
    /// seen under load too. Returns the number of messages routed, and whether nothing moves.
    fn work(&mut self) -> (usize, bool) {
        let before = self.router().stats.messages;
        let spin = self.hub.view.config.spin;
        let (mut idle_since, mut passes) = (None, 0);
        let mut held_since = None;
        while passes < PASSES {
            let before = self.router().stats.messages;
            let progress = self.router().step();
            if progress {
                (idle_since, passes) = (None, passes + 1);
                self.end_waits();
                let is_bulk = self.router().routed_bytes() >= BULK;
                let streaming = is_bulk || self.router().stats.messages - before >= STREAM;
                if streaming && self.may_hold(&mut held_since) {
                    if !self.router().is_left {
                        self.pause(is_bulk);
                    }
                    continue;
                }
            }
            held_since = None;
            self.notify();
            if progress {
                continue;
            }
            if spin.is_zero() {
                break;
            }
            let since = *idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= spin {
                break;
            }
            std::hint::spin_loop();
        }
        self.notify();
        let routed = self.router().stats.messages - before;
        (routed as usize, passes < PASSES)
    }

    /// Lets those go on that wait for room, or for an answer: until they do, nothing comes from them.
    fn end_waits(&mut self) {
        if !self.router().outcome.events.is_empty() {
            let hub = Arc::clone(&self.hub);
            hub.end_waits(&mut self.router().outcome);
        }
    }

    /// Leaves the lanes alone for a moment, so that there is more in them afterwards.
    fn pause(&mut self, is_bulk: bool) {
        // Receivers that have enough to do, and nobody to be woken: whoever shares this processor may
        // have it.
        let is_respite = is_bulk && self.router().outcome.wakes.is_empty();
        if is_respite && self.respite.give_way() {
            return;
        }
        let (senders, is_stream) = self.router().streams();
        let turns = if is_stream { LONG_PAUSE } else { PAUSE };
        // Touches no memory that others use.
        (0..turns / (senders * senders).max(1)).for_each(|_| std::hint::spin_loop());
    }

    /// True while those whom the last passes would wake may sleep on, because more is coming in:
    /// a wake costs more than routing a thousand messages.
    fn may_hold(&mut self, since: &mut Option<Instant>) -> bool {
        let outcome = &self.router().outcome;
        if !outcome.owners.is_empty() {
            return false;
        }
        if outcome.wakes.is_empty() {
            return true;
        }
        since.get_or_insert_with(Instant::now).elapsed() < HOLD
    }

    /// Does what the last pass asked for.
    fn notify(&mut self) {
        let router = self.router();
        let outcome = &router.outcome;
        if !outcome.wakes.is_empty() || !outcome.events.is_empty() {
            let hub = Arc::clone(&self.hub);
            hub.wake(&mut self.router().outcome);
        }
        if !self.router().outcome.owners.is_empty() {
            self.update_owners();
        }
        if self.router().outcome.barrier {
            self.settle();
        }
    }

    /// Lets the router arm lanes whose bias it has revoked.
    #[cold]
    fn settle(&mut self) {
        if !barrier::heavy() {
            // It was there when this master started; somebody has forbidden it since. No store stays
            // that long in the buffer of a processor that runs.
            std::thread::sleep(DRAINED);
            self.router().may_bias = false;
        }
        self.router().settle();
    }

    fn update_owners(&mut self) {
        let mut owners = std::mem::take(&mut self.router().outcome.owners);
        owners.drain(|slot| {
            self.watch_owner(slot);
        });
    }

    fn watch_owner(&mut self, slot: usize) {
        let pid = self.router().owner_pid(slot);
        if self.liveness.set_owner(slot, pid) {
            self.note_start(slot);
        } else {
            self.router().reap(slot);
        }
    }

    /// Writes down when the owner of a slot started, for a successor, which has no pidfd from its
    /// lifetime.
    fn note_start(&mut self, slot: usize) {
        let mailbox = self.hub.view.mailbox(slot);
        let Some(owner) = self.router().owner(slot) else {
            return;
        };
        // Relaxed, and below: read and written by masters only, and there is one.
        let is_known = Born::from_bits(mailbox.born.load(Ordering::Relaxed)).tick(owner);
        if is_known.is_some() || owner.pid() == UNSEEN {
            return;
        }
        let tick = start_tick(owner.pid());
        // The pid was its own until after the look, or the tick may be a stranger's.
        if let Some(tick) = tick.filter(|_| !self.liveness.is_over(slot)) {
            let born = Born::of(owner, tick).bits();
            mailbox.born.store(born, Ordering::Relaxed);
        }
    }

    /// True when the pid of a slot's owner has been given to a later process.
    fn is_strangers(&mut self, slot: usize) -> bool {
        let Some(owner) = self.router().owner(slot) else {
            return false;
        };
        // Relaxed: see `note_start`.
        let born = self.hub.view.mailbox(slot).born.load(Ordering::Relaxed);
        let born = Born::from_bits(born).tick(owner);
        born.is_some_and(|born| start_tick(owner.pid()).is_some_and(|tick| tick != born))
    }

    /// Arms all lanes and says that it sleeps; false when there is news.
    fn may_sleep(&mut self) -> bool {
        let hub = Arc::clone(&self.hub);
        let mut rests = self.router().rest();
        if self.router().outcome.barrier {
            self.settle();
            rests = self.router().rest();
        }
        match &hub.assist {
            _ if !rests => false,
            None => self.router().try_sleep(),
            // From the moment it sleeps, the router may be somebody else's.
            Some(assist) => hub.view.sleep.try_sleep(|| assist.is_rung()),
        }
    }

    /// Whether the role of the router must be asked for.
    fn claims(&self) -> bool {
        self.hub.view.config.assist
    }

    /// Has the role of the router from here on: the master is awake. An error when a helper keeps it.
    fn claim(&mut self) -> Result<(), MasterError> {
        if !self.claims() {
            self.hub.view.sleep.awake();
        } else if let Claim::Helped(_) = claim(&self.hub, PATIENCE)? {
            self.start_anew();
        }
        Ok(())
    }

    /// After a helper that died with the role: as a successor.
    fn start_anew(&mut self) {
        let (hub, reign) = (Arc::clone(&self.hub), self.router().reign);
        let mut router = make_router(&hub.view, hub.assist.as_ref(), Router::adopt);
        router.reign = reign;
        self.router = Some(router);
        self.look_at_all();
    }

    /// Sleeps until there is something, at most `longest`. Without a limit where there need not be one:
    /// the kernel's timer would cost a fifth of a wake.
    fn wait(&mut self, longest: Option<Duration>) -> Result<Events, MasterError> {
        let mut events = [EpollEvent::empty(); 16];
        let longest = match longest {
            _ if self.has_missed => NOT_AT_ALL,
            None if self.hub.guests.is_due() => Some(RETRY),
            given => given,
        };
        let longest = longest.map_or(EpollTimeout::NONE, |longest| {
            let millis = longest.as_micros().div_ceil(1000);
            EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
        });
        let result = self.epoll.wait(&mut events, longest);
        // Descriptors tell of what happens once: it is not forgotten while somebody keeps the role.
        let missed = std::mem::replace(&mut self.has_missed, true);
        self.claim()?;
        self.has_missed = false;
        match result {
            _ if missed => Ok(Events::Processes),
            Ok(n) if events[..n].iter().any(|e| e.data() != u64::MAX) => Ok(Events::Processes),
            Ok(0) => Ok(Events::None),
            Ok(_) => Ok(Events::Rung),
            Err(Errno::EINTR) => Ok(Events::Interrupted),
            Err(e) => Err(OsError::of("epoll_wait")(e).into()),
        }
    }

    fn take_events(&mut self) -> Result<usize, MasterError> {
        let events = self.wait(NOT_AT_ALL)?;
        Ok(self.handle(events))
    }

    /// Deaths come last: what the dead have published is routed first.
    fn handle(&mut self, events: Events) -> usize {
        let hints = self.take_hints();
        let guests_due = self.hub.guests.take_due();
        if events != Events::Processes && hints.is_empty() && !guests_due {
            return 0;
        }
        let (routed, _) = self.work();
        let mut dead = self.liveness.dead_slots();
        dead.extend(self.slots_of_departed());
        let cores = self.hub.view.config.cores as usize;
        for worker in hints {
            let slots = worker * cores..(worker + 1) * cores;
            slots.clone().for_each(|slot| self.look_at(slot));
            dead.extend(self.liveness.reported_dead(slots));
        }
        for slot in dead {
            self.router().reap(slot);
        }
        let routed = routed + self.work().0;
        self.serve_guests(guests_due);
        routed
    }

    fn take_hints(&self) -> Vec<usize> {
        let mut workers = Vec::new();
        for (i, word) in self.hub.hints.iter().enumerate() {
            // Relaxed: mostly zero; the swap below decides.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // SYNC(hints): pairs with `Hub::worker_died`.
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                workers.push(i * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        workers
    }

    /// Cores may have attached, or been killed while doing so, before there was a master.
    fn look_at_all(&mut self) {
        (0..self.hub.view.layout.slots).for_each(|slot| self.look_at(slot));
    }

    fn look_at(&mut self, slot: usize) {
        self.router().look_at(slot);
        if self.is_strangers(slot) {
            self.router().reap(slot);
        } else {
            self.watch_owner(slot);
        }
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Events {
    None,
    Rung,
    /// One has ended, or comes by socket.
    Processes,
    Interrupted,
}

fn remaining(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|d| d.saturating_duration_since(Instant::now()))
}

impl AsFd for Master {
    /// Readable when [`Master::poll`] has work: an epoll descriptor, for the host's own loop.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // In a forked child this is only a copy: the real one lives on in the parent.
        if self.hub.mark.current() != self.pid {
            return;
        }
        let claimed = |claim| matches!(claim, Ok(Claim::Given | Claim::Held));
        let has_role = !self.claims() || claimed(claim(&self.hub, PATIENCE));
        let state = &self.hub.view.header.master;
        if !MasterState::Gone.change(state, MasterState::load(state)) {
            return; // damage: nobody else changes it while its master lives
        }
        let view = &self.hub.view;
        view.header.pulse.end();
        for slot in (0..view.layout.slots).filter(|&slot| !view.slot(slot).load().is_free()) {
            self.hub.wake_core(slot);
        }
        // What a helper has in its hands, or died with, is not for the next master.
        if !has_role {
            return;
        }
        if let Some(mut router) = self.hub.router.try_lock() {
            *router = self.router.take();
        }
        if self.claims() {
            view.sleep.stop();
        }
    }
}
