//! The hub: made before fork, inherited by every worker.

use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::assist::{Assist, make_router};
use crate::barrier;
use crate::config::{Config, Order, Overflow, Timestamps};
use crate::core::{Core, Sender};
use crate::directory::check_name;
use crate::error::{AdoptError, AttachError, ConnectError, CreateError, ListenError, MasterError};
use crate::fds::FdTable;
use crate::guests::address::Address;
use crate::guests::connect::Seat;
use crate::guests::{self, Guests};
use crate::handoff::Handoff;
use crate::layout::Layout;
use crate::master::{Master, MasterThread};
use crate::memory::Place;
use crate::notify;
use crate::process::ProcessMark;
use crate::region::{OsError, address_space, available_fds, available_memory};
use crate::router::{Outcome, Router};
use crate::shared::{Holder, MasterState};
use crate::stats::Stats;
use crate::sync::{AtomicU64, Ordering};
use crate::view::View;
use crate::worker::Worker;

/// The environment variable in which servers hand on the name of a hub's socket.
pub const SOCKET_VARIABLE: &str = "CORECAST_SOCKET";

/// What one process knows of a hub. A forked child has its own copy.
#[derive(Debug)]
pub(crate) struct Inner {
    pub view: Arc<View>,
    pub mark: ProcessMark,
    /// The process that made the hub.
    pub creator: u32,
    /// Wakes the master.
    pub router_fd: OwnedFd,
    pub core_fds: FdTable,
    /// The router while no master runs. Only masters lock it, never a forked worker.
    pub router: Mutex<Option<Place<Router>>>,
    /// Workers reported dead by the host, one bit each.
    pub hints: Box<[AtomicU64]>,
    /// Slots that the program held which ran in this process before: their cores are gone.
    pub left_behind: Vec<(usize, Holder)>,
    /// Who comes by socket.
    pub guests: Guests,
    /// How workers help the master. Dropped after the router, which lies in it.
    pub assist: Option<Assist>,
    /// This process has come by socket itself. Dropped last: when the connection ends, nothing
    /// here can write any more.
    pub seat: Option<Seat>,
    /// Processes forked from here on answer to barriers.
    heirs_answer: bool,
}

impl Inner {
    /// Slot of a worker's core; extra slots belong to worker number `workers`.
    pub fn slot_of(&self, worker: u32, core: u32) -> Result<usize, AttachError> {
        let config = &self.view.config;
        let is_extra = worker == config.workers && config.extra > 0;
        let cores = if is_extra { config.extra } else { config.cores };
        if worker >= config.workers && !is_extra {
            let workers = config.workers;
            return Err(AttachError::WorkerOutOfRange { worker, workers });
        }
        if core >= cores {
            return Err(AttachError::CoreOutOfRange { core, cores });
        }
        Ok((worker * config.cores + core) as usize)
    }

    /// The inverse of [`Self::slot_of`].
    pub fn sender_of(&self, slot: usize) -> Sender {
        let (slot, config) = (slot as u32, &self.view.config);
        let worker = (slot / config.cores).min(config.workers);
        Sender {
            worker,
            core: slot - worker * config.cores,
        }
    }

    /// True when this process answers to [`barrier::heavy`]: it was forked when the hub was there.
    pub fn answers(&self) -> bool {
        self.heirs_answer && std::process::id() != self.creator
    }

    /// True in a process that neither made the hub nor runs its master: those need all of it.
    pub fn is_forked_child(&self) -> bool {
        let pid = std::process::id();
        let master = MasterState::load(&self.view.header.master);
        pid != self.creator && !master.is_run_by(pid)
    }

    /// By what pid this process claims slots.
    pub fn claimant(&self) -> u32 {
        let pid = self.mark.enter();
        self.seat.as_ref().map_or(pid, |seat| seat.pid)
    }

    /// In a child of a guest: its parent.
    pub fn forked_from_guest(&self) -> Option<u32> {
        (self.seat.is_some() && std::process::id() != self.creator).then_some(self.creator)
    }

    /// True in the process that made the hub and in the master's.
    fn is_at_home(&self) -> bool {
        let here = self.mark.current();
        let master = MasterState::load(&self.view.header.master);
        self.seat.is_none() && (here == self.creator || master.is_run_by(here))
    }

    pub fn notify_router(&self) {
        notify::ring(self.router_fd.as_raw_fd());
    }

    /// Writes a core's eventfd.
    fn notify_core(&self, slot: usize) {
        self.core_fds.get(slot).into_iter().for_each(notify::ring);
    }

    /// Wakes a core that sleeps on its control word.
    fn rouse(&self, slot: usize) {
        // SAFETY: the word stays mapped as long as the view.
        unsafe { notify::futex_wake_at(self.view.control(slot).futex()) }
    }

    /// Wakes a core, whatever it sleeps on.
    pub fn wake_core(&self, slot: usize) {
        self.end_wait(slot);
        self.rouse(slot);
        self.notify_core(slot);
    }

    /// Ends a core's wait for the master, if it waits.
    pub fn end_wait(&self, slot: usize) {
        notify::wake(&self.view.mailbox(slot).event);
    }

    /// Wakes those whom the router's passes have found asleep or waiting.
    pub fn wake(&self, outcome: &mut Outcome) {
        self.end_waits(outcome);
        outcome.wakes.dozers.drain(|slot| self.rouse(slot));
        outcome.wakes.others.drain(|slot| self.notify_core(slot));
    }

    /// Wakes those who wait for room or an answer.
    pub fn end_waits(&self, outcome: &mut Outcome) {
        outcome.events.drain(|slot| self.end_wait(slot));
    }
}

/// A hub: the shared region and all that lives in it. Make it before you fork; clones and forked
/// children refer to the same region.
///
/// The memory is freed when the last process that has it mapped ends or drops it.
#[derive(Clone, Debug)]
pub struct Hub {
    pub(crate) inner: Arc<Inner>,
}

impl Hub {
    /// Makes a hub.
    ///
    /// # Errors
    /// A wrong configuration, or not enough memory or file descriptors for it; nothing is left
    /// behind then.
    pub fn create(config: &Config) -> Result<Self, CreateError> {
        let layout = Layout::new(config)?;
        check_resources(config, &layout)?;
        let view = View::create(config, layout).map_err(|e| memory_error(e, config))?;
        let assist = Assist::create(&view).map_err(|e| memory_error(e, config))?;
        let router = make_router(&view, assist.as_ref(), Router::new);
        Assist::put_in_force(assist.as_ref(), &view.header);
        let fds = (notify::eventfd()?, notify::core_fds(view.layout.slots)?);
        let mark = ProcessMark::create()?;
        let router = (Some(router), assist);
        Ok(Self::of(mark, view, fds, router, Vec::new(), None))
    }

    fn of(
        mark: ProcessMark,
        view: Arc<View>,
        (router_fd, core_fds): (OwnedFd, FdTable),
        (router, assist): (Option<Place<Router>>, Option<Assist>),
        left_behind: Vec<(usize, Holder)>,
        seat: Option<Seat>,
    ) -> Self {
        let words = (view.config.workers as usize).div_ceil(64);
        Self {
            inner: Arc::new(Inner {
                view,
                creator: mark.enter(),
                mark,
                router_fd,
                core_fds,
                router: Mutex::new(router),
                hints: (0..words).map(|_| AtomicU64::new(0)).collect(),
                left_behind,
                guests: Guests::default(),
                assist,
                seat,
                heirs_answer: barrier::register(),
            }),
        }
    }

    /// Lets other processes of this user (or root's) be workers though they did not inherit the
    /// hub: a Unix socket at which they [`Hub::connect`], and its name, for their arguments or
    /// environment. `name` is `@` and a name in the kernel's abstract namespace, or a path; None
    /// makes one up. The master serves the socket. Each guest gets a *seat*, to the end of its
    /// process: one of the workers from `first_worker` on (those before are for forked children),
    /// with all of its cores, or, when they are taken, an extra slot. The socket closes when the
    /// hub is dropped in this process; a successor in another program listens anew.
    ///
    /// # Errors
    /// The name cannot be one or is taken, there are no seats, the hub listens already, or this is
    /// neither the process that made it nor the master's.
    pub fn listen(&self, name: Option<&str>, first_worker: u32) -> Result<String, ListenError> {
        let inner = &self.inner;
        if !inner.is_at_home() {
            return Err(ListenError::WrongProcess);
        }
        let address = match name {
            Some(name) => Address::parse(name)?,
            None => Address::random().map_err(OsError::of("getrandom"))?,
        };
        inner.guests.listen(&address, self.seats(first_worker)?)?;
        inner.notify_router();
        Ok(address.to_string())
    }

    /// The slots of each seat that guests can have.
    fn seats(&self, first_worker: u32) -> Result<Vec<Range<usize>>, ListenError> {
        let layout = &self.inner.view.layout;
        let workers = self.config().workers;
        let (cores, extra) = (self.config().cores, workers * self.config().cores);
        let first = first_worker.min(workers) * cores;
        let mut seats = Vec::new();
        let mut slot = first as usize;
        while slot < layout.slots {
            seats.push(layout.siblings(slot));
            slot = layout.siblings(slot).end;
        }
        debug_assert!(first <= extra);
        if seats.is_empty() {
            return Err(ListenError::NoSeats {
                first_worker,
                workers,
            });
        }
        Ok(seats)
    }

    /// Becomes a worker of the hub that listens at `name`, for at most `timeout` of waiting; its
    /// cores are given out by [`Hub::attach_any`]. The descriptors come through the socket, and are
    /// checked. This process can write what a forked worker could ([`Config::isolation`]). When it
    /// ends, or this hub and the last of its cores are dropped, the seat is free again. A child that
    /// it forks connects for itself.
    ///
    /// # Errors
    /// Nobody listens, all seats are taken, the hub is another user's or another version's, or what
    /// came is not what it should be.
    pub fn connect(name: &str, timeout: Duration) -> Result<Self, ConnectError> {
        let welcome = guests::connect::ask(&Address::parse(name)?, timeout)?;
        let fds = (welcome.router_fd, welcome.core_fds);
        let seat = Some(welcome.seat);
        let mark = ProcessMark::create()?;
        let none = (None, None);
        Ok(Self::of(mark, welcome.view, fds, none, Vec::new(), seat))
    }

    /// [`Self::connect`] to the hub that the environment names ([`SOCKET_VARIABLE`]).
    ///
    /// # Errors
    /// It names none, and as above.
    pub fn connect_from_environment(timeout: Duration) -> Result<Self, ConnectError> {
        let name = std::env::var(SOCKET_VARIABLE).unwrap_or_default();
        if name.is_empty() {
            return Err(ConnectError::NoName);
        }
        Self::connect(&name, timeout)
    }

    /// In a guest: which worker it is, and its first core. An extra slot has worker number
    /// `config.workers`.
    pub fn seat(&self) -> Option<Sender> {
        let seat = self.inner.seat.as_ref()?;
        Some(self.inner.sender_of(seat.slots.start))
    }

    /// A line of text by which the next program in this process finds the hub ([`Hub::adopt`]): for
    /// its arguments or environment. The descriptors of the hub stay open across exec from now on,
    /// also in what other threads start meanwhile. Workers that are attached go on.
    ///
    /// # Errors
    /// This process is a worker and has closed some of the descriptors.
    pub fn handoff(&self) -> Result<String, AdoptError> {
        let inner = &self.inner;
        let router = inner.router_fd.as_raw_fd();
        let handoff = Handoff::of(inner.view.memfds(), router, &inner.core_fds);
        let handoff = handoff.ok_or(AdoptError::WrongProcess)?;
        handoff.survive_exec(true)?;
        Ok(handoff.to_string())
    }

    /// The hub that the program before exec has handed on; the text is from [`Hub::handoff`]. To be
    /// called until it succeeds once: the hub owns the descriptors then. The master is started as for
    /// a new hub, and goes on where the last one stopped or died.
    ///
    /// # Errors
    /// The text, a descriptor or the region is not what it should be, or a system call failed. The
    /// descriptors stay open.
    pub fn adopt(handoff: &str) -> Result<Self, AdoptError> {
        let handoff = Handoff::parse(handoff)?;
        handoff.check()?;
        let mark = ProcessMark::create()?;
        let view = View::adopt(&handoff.memfds)?;
        let taken = take_over(&handoff, &view).and_then(|()| Ok(Assist::create(&view)?));
        let assist = taken.inspect_err(|_| view.memfds().forget())?;
        // SAFETY: checked, and handed over to this hub alone (the caller's part).
        let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        let fds = (
            own(handoff.router),
            FdTable::new(handoff.cores.iter().map(|&fd| own(fd))),
        );
        let pid = std::process::id();
        let holders = (0..view.layout.slots).map(|slot| (slot, view.slot(slot).load()));
        let left_behind = holders.filter(|(_, holder)| holder.pid() == pid && !holder.is_free());
        let left_behind = left_behind.collect();
        let router = (None, assist);
        Ok(Self::of(mark, view, fds, router, left_behind, None))
    }

    /// A hub with some settings changed from the default.
    pub fn builder() -> Builder {
        Builder(Config::default())
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &Config {
        &self.inner.view.config
    }

    /// The master, to be driven by the host's own loop with [`Master::poll`].
    ///
    /// If there was one before, in whatever process, this one goes on where that has stopped or
    /// died: nothing that was sent is lost, repeated or reordered.
    ///
    /// # Errors
    /// There is a master already, this is a forked child that has attached as a worker or a
    /// helper, or a system call failed.
    pub fn master(&self) -> Result<Master, MasterError> {
        let master = Master::new(Arc::clone(&self.inner))?;
        master.keep_pulse();
        Ok(master)
    }

    /// Runs the master on a thread of its own. Call it before the first fork or after, in the
    /// process that outlives the workers.
    ///
    /// # Errors
    /// As for [`Self::master`].
    pub fn start(&self) -> Result<MasterThread, MasterError> {
        MasterThread::start(Master::new(Arc::clone(&self.inner))?)
    }

    /// A worker's view of the hub. In a forked child this closes the notification descriptors of
    /// all other workers (those of the extra slots stay), and gives up what [`Config::isolation`]
    /// says.
    ///
    /// # Errors
    /// The index is out of range, the region is of another version, or a system call failed.
    pub fn worker(&self, worker: u32) -> Result<Worker, AttachError> {
        Worker::new(Arc::clone(&self.inner), worker)
    }

    /// Attaches a core: short for `hub.worker(worker)?.core(core)`. Worker number
    /// `config.workers` stands for the extra slots.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&self, worker: u32, core: u32) -> Result<Core, AttachError> {
        if worker == self.config().workers {
            let slot = self.inner.slot_of(worker, core)?;
            return Core::attach(Arc::clone(&self.inner), slot);
        }
        self.worker(worker)?.core(core)
    }

    /// Attaches to any free slot, the extra ones first: for helpers, mules, the master itself.
    ///
    /// # Errors
    /// No slot is free. The master then looks for slots whose holder is dead: try again.
    pub fn attach_any(&self) -> Result<Core, AttachError> {
        let slots = self.inner.view.layout.slots;
        let extra = slots - self.config().extra as usize;
        for slot in (extra..slots).chain(0..extra) {
            match Core::attach_if_free(Arc::clone(&self.inner), slot) {
                // Taken, or somebody was faster, or it is another worker's.
                Ok(None) | Err(AttachError::Busy { .. } | AttachError::Foreign { .. }) => {}
                Ok(Some(core)) => return Ok(core),
                Err(other) => return Err(other),
            }
        }
        // A holder may have been killed before it could ring: the master looks at all of them, and
        // the next try finds what is free then.
        (0..slots).for_each(|slot| Core::ask_to_look_at(&self.inner, slot));
        let seat = self.inner.seat.as_ref();
        Err(AttachError::NoFreeSlot {
            slots: seat.map_or(slots, |seat| seat.slots.len()) as u32,
        })
    }

    /// Tells the master that a worker process has died, if the host knows before the kernel's
    /// own notice. Harmless if it is not so: the master looks at the process itself. To be called
    /// in the master's process; async-signal-safe.
    ///
    /// # Errors
    /// The index is out of range, or this is not the master's process.
    pub fn worker_died(&self, worker: u32) -> Result<(), AttachError> {
        let workers = self.config().workers;
        if worker >= workers {
            return Err(AttachError::WorkerOutOfRange { worker, workers });
        }
        if !self.inner.is_at_home() {
            return Err(AttachError::WrongProcess);
        }
        // SYNC(hints): pairs with the master's swap; carries no data.
        self.inner.hints[worker as usize / 64].fetch_or(1 << (worker % 64), Ordering::SeqCst);
        self.inner.notify_router();
        Ok(())
    }

    /// For tests that stop a master somewhere and look at what would follow if it had died there:
    /// from now on there is none, whatever its process does.
    #[doc(hidden)]
    pub fn presume_master_dead(&self) {
        let header = &self.inner.view.header;
        // True unless another master has come meanwhile: then that one lives.
        let seen = MasterState::load(&header.master);
        let _gone = MasterState::Gone.change(&header.master, seen);
        // The thread that gives it is another's, so this is what the kernel does at its end.
        header.pulse.end();
    }

    /// A copy of the live counters.
    pub fn stats(&self) -> Stats {
        Stats::load(&self.inner.view.header.counters)
    }

    /// Who is subscribed to a channel now: a snapshot that may be outdated when you read it.
    pub fn subscribers(&self, name: impl AsRef<[u8]>) -> Vec<Sender> {
        let view = &self.inner.view;
        let mut found = Vec::new();
        if check_name(name.as_ref()).is_ok() {
            if let Some(id) = view.directory.find(name.as_ref()) {
                view.rows
                    .for_each(id.index, |slot| found.push(self.inner.sender_of(slot)));
                if !view.directory.is_current(id) {
                    found.clear();
                }
            }
        }
        found
    }
}

/// The last of what can go wrong in an adoption: the descriptors are as before then.
fn take_over(handoff: &Handoff, view: &View) -> Result<(), AdoptError> {
    if handoff.cores.len() != view.layout.slots {
        return Err(AdoptError::Damaged);
    }
    Ok(handoff.survive_exec(false)?)
}

fn check_resources(config: &Config, layout: &Layout) -> Result<(), CreateError> {
    let need = layout.total as u64;
    let mut available = address_space();
    if config.populate {
        available = available.min(available_memory().unwrap_or(u64::MAX));
    }
    if need > available {
        return Err(CreateError::Memory { need, available });
    }
    let (need, available) = (u64::from(config.requirements()?.fds), available_fds());
    if need > available {
        return Err(CreateError::Fds { need, available });
    }
    Ok(())
}

/// Lack of memory gets its own error, whatever call it came from.
fn memory_error(e: OsError, config: &Config) -> CreateError {
    let need = config.requirements().map_or(0, |r| r.bytes);
    match e.errno {
        libc::ENOMEM | libc::ENOSPC | libc::EFBIG => CreateError::Memory {
            need,
            available: available_memory().unwrap_or(0).min(address_space()),
        },
        _ => e.into(),
    }
}

/// Builds a [`Hub`]; see [`Config`] for what each setting means.
#[derive(Clone, Debug)]
pub struct Builder(Config);

macro_rules! setters {
    ($($name:ident: $type:ty,)+) => {
        $(
            #[doc = concat!("Sets [`Config::", stringify!($name), "`].")]
            #[must_use]
            pub fn $name(mut self, $name: $type) -> Self {
                self.0.$name = $name;
                self
            }
        )+
    };
}

impl Builder {
    setters! {
        workers: u32,
        cores: u32,
        extra: u32,
        channels: u32,
        lane_bytes: usize,
        queue_bytes: usize,
        arena_bytes: usize,
        slab_bytes: usize,
        max_message: usize,
        overflow: Overflow,
        timestamps: Timestamps,
        order: Order,
        populate: bool,
        huge_pages: bool,
        isolation: bool,
        assist: bool,
        await_successor: bool,
        spin: Duration,
        answer_timeout: Duration,
    }

    /// The configuration so far.
    pub fn config(&self) -> &Config {
        &self.0
    }

    /// Makes the hub.
    ///
    /// # Errors
    /// See [`Hub::create`].
    pub fn create(self) -> Result<Hub, CreateError> {
        Hub::create(&self.0)
    }
}
