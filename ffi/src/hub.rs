//! `channel_hub_t`: the shared region, and its master.
//!
//! Attaching, statistics and the notice of a death share the hub among threads;
//! the master's calls exclude each other.

// corecast::sync is the facade of what loom models; this state is private to a process.
#![allow(clippy::disallowed_types)]

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int};
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use corecast::{Hub, Master, MasterError, MasterThread};

use crate::config::{self, ChannelConfig};
use crate::error::{ChannelE, Failure};
use crate::guard::guard;
use crate::handle::{Graves, Handle};
use crate::sized::{self, SizedStruct};
use crate::{count, duration};

const LIVE: u32 = 0;
const POISONED: u32 = 1;
const DESTROYED: u32 = 2;

static GRAVES: Graves<ChannelHub> = Graves::new();

/// A hub: the shared region and all that lives in it. Made before fork; the
/// children use the pointer that they inherit.
pub struct ChannelHub {
    /// LIVE -> POISONED by a panic; LIVE or POISONED -> DESTROYED once.
    state: AtomicU32,
    /// Dropped by the call that won DESTROYED.
    hub: UnsafeCell<ManuallyDrop<Hub>>,
    role: Handle<Role>,
}

/// What the process knows of the router role.
struct Role {
    /// The process that took it; a fork copies the memory, but not the role.
    pid: u32,
    master: Holder,
}

enum Holder {
    /// Nobody called for it yet.
    Nobody,
    /// The host drives it through channel_hub_poll.
    Host(Master),
    /// channel_hub_start gave it a thread.
    Thread(MasterThread),
}

impl Role {
    /// The role as it is in this process, taken for the host if nobody has it.
    fn host(&mut self, hub: &Hub) -> Result<&mut Master, Failure> {
        if self.is_vacant() {
            let mut master = hub.master().map_err(|e| self.refusal(e))?;
            // The descriptor tells of work from the end of the first poll on.
            master.poll(Some(Duration::ZERO))?;
            self.set(Holder::Host(master));
        }
        match &mut self.master {
            Holder::Host(master) => Ok(master),
            _ => Err(ChannelE::MasterRunning.into()),
        }
    }

    /// Gives the role a thread.
    fn start(&mut self, hub: &Hub) -> Result<(), Failure> {
        if !self.is_vacant() {
            return Err(ChannelE::MasterRunning.into());
        }
        self.set(Holder::Thread(hub.start().map_err(|e| self.refusal(e))?));
        Ok(())
    }

    /// True when nobody in this process has the role; a parent's is not this process's.
    fn is_vacant(&self) -> bool {
        matches!(self.master, Holder::Nobody) || self.pid != std::process::id()
    }

    /// Why there cannot be a master here: a child is told that its copy of the role is of no use
    /// while its parent has it.
    fn refusal(&self, e: MasterError) -> Failure {
        match (e, &self.master) {
            (MasterError::AlreadyRunning { .. }, Holder::Host(_) | Holder::Thread(_)) => {
                ChannelE::WrongProcess.into()
            }
            _ => e.into(),
        }
    }

    fn set(&mut self, master: Holder) {
        self.pid = std::process::id();
        self.master = master;
    }

    /// Ends the role, if it is this process's to end; in a child it is only a copy. A
    /// thread that has failed, or panicked, is no reason to keep the hub.
    fn end(self) {
        if let Holder::Thread(thread) = self.master {
            let _ = catch_unwind(AssertUnwindSafe(|| thread.stop()));
        }
    }
}

/// Poisons the hub if a call leaves by a panic.
struct Shared<'a>(&'a ChannelHub);

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        // Relaxed: a flag about earlier calls; an attach under way in another thread
        // may miss it.
        let _ = self
            .0
            .state
            .compare_exchange(LIVE, POISONED, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl ChannelHub {
    pub(crate) fn new(hub: Hub) -> *mut ChannelHub {
        Box::into_raw(Box::new(ChannelHub {
            state: AtomicU32::new(LIVE),
            hub: UnsafeCell::new(ManuallyDrop::new(hub)),
            role: Handle::new(Role {
                pid: std::process::id(),
                master: Holder::Nobody,
            }),
        }))
    }

    fn check(&self) -> Result<(), Failure> {
        // Relaxed: destroying while another thread is in a call is the caller's mistake.
        match self.state.load(Ordering::Relaxed) {
            LIVE => Ok(()),
            POISONED => Err(ChannelE::Poisoned.into()),
            _ => Err(ChannelE::Detached.into()),
        }
    }

    /// Runs a call that works on the live hub.
    fn call<R>(&self, call: impl FnOnce(&Hub) -> Result<R, Failure>) -> Result<R, Failure> {
        self.check()?;
        let shared = Shared(self);
        // SAFETY: LIVE, and no destroy runs at the same time (the caller's part): not dropped.
        let result = call(unsafe { &*self.hub.get() });
        mem::forget(shared);
        result
    }

    /// Runs a call that works on the role; others get IN_USE meanwhile.
    fn master<R>(
        &self,
        call: impl FnOnce(&mut Role, &Hub) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.call(|hub| {
            let mut role = self.role.claim()?;
            let result = call(&mut role, hub);
            role.done();
            result
        })
    }

    /// Ends the hub, and the role with it.
    fn destroy(&self) -> Result<(), Failure> {
        let before = self.state.swap(DESTROYED, Ordering::AcqRel);
        if before == DESTROYED {
            return Err(ChannelE::Detached.into());
        }
        match self.role.take() {
            Ok(role) => role.end(),
            // Forked while another thread was in channel_hub_poll: nobody is in it here.
            Err(_) if self.role.foreign() => {}
            Err(busy) => {
                self.state.store(before, Ordering::Release);
                return Err(busy);
            }
        }
        // SAFETY: the swap gives DESTROYED to one caller, once, and nobody enters any more.
        unsafe { ManuallyDrop::drop(&mut *self.hub.get()) };
        Ok(())
    }
}

/// Runs an export that gets a hub.
///
/// # Safety
/// `hub` is NULL or from channel_hub_create.
pub(crate) unsafe fn on_hub(
    hub: *const ChannelHub,
    call: impl FnOnce(&ChannelHub) -> Result<c_int, Failure>,
) -> c_int {
    // SAFETY: NULL, or a block that outlives the handle by the tombstones (contract).
    guard(|| call(unsafe { hub.as_ref() }.ok_or(Failure::Null("hub"))?))
}

/// Runs an export that needs the live hub and not the role.
///
/// # Safety
/// As for [`on_hub`].
pub(crate) unsafe fn with_hub(
    hub: *const ChannelHub,
    call: impl FnOnce(&Hub) -> Result<c_int, Failure>,
) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { on_hub(hub, |hub| hub.call(call)) }
}

/// Creates a hub: its memory is reserved, and touched only when used, unless the
/// configuration says `populate`. Nothing is routed before channel_hub_start, or
/// channel_hub_poll, has been called.
///
/// Any thread, before fork: the children inherit it. May take long with
/// `populate`; does not wait for anybody. Not signal-safe. `*out` is written only
/// on success; the caller frees it with channel_hub_destroy, in each process for
/// itself. Errors: CHANNEL_E_NULL, CHANNEL_E_SIZE, CHANNEL_E_VALUE,
/// CHANNEL_E_CONFIG_..., CHANNEL_E_MEMORY, CHANNEL_E_FDS, CHANNEL_E_OS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_create(
    config: *const ChannelConfig,
    out: *mut *mut ChannelHub,
) -> c_int {
    guard(|| {
        // SAFETY: the caller passes NULL or a struct of the size it says.
        let config = unsafe { config::read(config) }?;
        if out.is_null() {
            return Err(Failure::Null("out"));
        }
        let hub = ChannelHub::new(Hub::create(&config)?);
        // SAFETY: not NULL, and the caller's to write.
        unsafe { out.write(hub) };
        Ok(0)
    })
}

/// Writes a line of text by which the next program in this process finds the hub
/// (channel_hub_adopt), for its arguments or environment: to `text`, which has room
/// for `room` bytes, with a NUL. Returns its length without the NUL. From then on
/// the hub's descriptors stay open across exec, whoever calls it in this process.
/// Workers that are attached go on; the master's role ends with the program.
///
/// Any thread, in the process that made or adopted the hub. Does not block. Not
/// signal-safe. Errors: CHANNEL_E_NULL, CHANNEL_E_TOO_LARGE (`room` is not enough;
/// 256 bytes are for most hubs, 32 for each slot for all), CHANNEL_E_WRONG_PROCESS,
/// CHANNEL_E_OS, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_handoff(
    hub: *mut ChannelHub,
    text: *mut c_char,
    room: usize,
) -> c_int {
    let write = |hub: &Hub| {
        if text.is_null() {
            return Err(Failure::Null("text"));
        }
        let line = hub.handoff()?;
        if line.len() >= room {
            return Err(ChannelE::TooLarge.into());
        }
        // SAFETY: not NULL, and `room` bytes are the caller's to write: the line and a NUL fit.
        unsafe {
            text.cast::<u8>()
                .copy_from_nonoverlapping(line.as_ptr(), line.len());
            text.add(line.len()).write(0);
        }
        Ok(count(line.len()))
    };
    // SAFETY: the caller passes NULL or a hub.
    unsafe { with_hub(hub, write) }
}

/// Takes over the hub that the program before exec has handed on; `handoff` is the
/// text of channel_hub_handoff. The text is checked, and so is what it names. The
/// master is started as for a new hub, and goes on where the last one stopped or
/// died: nothing is lost, repeated or reordered.
///
/// Once for each handoff, and again after a failure, which leaves the descriptors
/// open. Any thread. Does not block. Not signal-safe. `*out` is written only on
/// success; the caller frees it with channel_hub_destroy. Errors:
/// CHANNEL_E_NULL, CHANNEL_E_HANDOFF, CHANNEL_E_VERSION, CHANNEL_E_OS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_adopt(
    handoff: *const c_char,
    out: *mut *mut ChannelHub,
) -> c_int {
    guard(|| {
        if handoff.is_null() {
            return Err(Failure::Null("handoff"));
        }
        if out.is_null() {
            return Err(Failure::Null("out"));
        }
        // SAFETY: not NULL: a string that ends with NUL (contract).
        let text = unsafe { CStr::from_ptr(handoff) };
        let text = text.to_str().map_err(|_| ChannelE::Handoff)?;
        let hub = ChannelHub::new(Hub::adopt(text)?);
        // SAFETY: not NULL, and the caller's to write.
        unsafe { out.write(hub) };
        Ok(0)
    })
}

/// Starts the master in a thread of its own, in the process that calls. It ends
/// with channel_hub_destroy in the same process.
///
/// Any thread, before or after the workers are forked; they do not inherit the
/// thread. Does not block. Not signal-safe. Errors: CHANNEL_E_NULL,
/// CHANNEL_E_MASTER_RUNNING, CHANNEL_E_IN_USE, CHANNEL_E_WRONG_PROCESS,
/// CHANNEL_E_OS, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_start(hub: *mut ChannelHub) -> c_int {
    // SAFETY: the caller passes NULL or a hub.
    unsafe {
        on_hub(hub, |hub| {
            hub.master(|role, hub| role.start(hub).map(|()| 0))
        })
    }
}

/// Routes what is there and watches the workers, as the master, in the thread
/// that calls: for a host that has its own loop. Waits up to `timeout_ms` for
/// something to do; 0 does not wait, -1 waits as long as it takes. Returns the
/// number of messages routed. A signal ends the wait. The first call takes the
/// master's role.
///
/// One thread at a time, in the process that called first. Blocks as `timeout_ms`
/// says. Not signal-safe. Errors: CHANNEL_E_NULL, CHANNEL_E_MASTER_RUNNING (a
/// thread or another process is the master), CHANNEL_E_WRONG_PROCESS,
/// CHANNEL_E_IN_USE, CHANNEL_E_OS, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_poll(hub: *mut ChannelHub, timeout_ms: c_int) -> c_int {
    let timeout = (timeout_ms >= 0).then(|| duration(timeout_ms));
    let poll = |role: &mut Role, hub: &Hub| Ok(count(role.host(hub)?.poll(timeout)?));
    // SAFETY: the caller passes NULL or a hub.
    unsafe { on_hub(hub, |hub| hub.master(poll)) }
}

/// A file descriptor that is readable when channel_hub_poll has something to do,
/// for a host's own poll or epoll. Takes the master's role, like channel_hub_poll.
///
/// As channel_hub_poll, but never blocks. The descriptor belongs to the library:
/// neither read nor close it. Errors: as channel_hub_poll.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_fd(hub: *mut ChannelHub) -> c_int {
    let fd = |role: &mut Role, hub: &Hub| Ok(role.host(hub)?.as_fd().as_raw_fd());
    // SAFETY: the caller passes NULL or a hub.
    unsafe { on_hub(hub, |hub| hub.master(fd)) }
}

/// Tells the master that a worker process has ended, for a host that learns of it
/// before the master does: its slots become free. Harmless if it is not so: the
/// master looks at the process itself.
///
/// In the master's process. Does not block. Signal-safe: may be called from a
/// SIGCHLD handler. Errors: CHANNEL_E_NULL, CHANNEL_E_WORKER_RANGE,
/// CHANNEL_E_WRONG_PROCESS, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_worker_died(hub: *mut ChannelHub, worker: u32) -> c_int {
    // SAFETY: the caller passes NULL or a hub.
    unsafe { with_hub(hub, |hub| Ok(hub.worker_died(worker).map(|()| 0)?)) }
}

/// Counters of a hub since its creation, and how much is there now. Set `size` first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChannelStats {
    /// sizeof(channel_stats_t), set by the caller.
    pub size: usize,
    /// Messages routed.
    pub messages: u64,
    /// Copies of them put into queues.
    pub deliveries: u64,
    /// Messages on channels that nobody was subscribed to.
    pub unheard: u64,
    /// Deliveries dropped because a queue was full.
    pub lost: u64,
    /// Sleeping cores that were notified.
    pub wakes: u64,
    /// Passes of the router.
    pub passes: u64,
    /// Subscriptions made.
    pub joins: u64,
    /// Subscriptions ended.
    pub leaves: u64,
    /// Channels in use now.
    pub channels: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Cores attached now.
    pub cores: u64,
    /// Slots cleaned up after a worker that died.
    pub reaped: u64,
    /// Cores shut out because their lane held what no core writes.
    pub quarantined: u64,
    /// Such records found.
    pub violations: u64,
    /// Runs of messages, and large messages, written once for all of their queues.
    pub shared: u64,
    /// How often the arena had no room for them, so that each queue got a copy.
    pub unshared: u64,
    /// How often a worker did the master's work, see `assist` of channel_config_t.
    pub assisted: u64,
}

// SAFETY: repr(C), integers only, `size` first; it had 120 bytes before `shared`.
unsafe impl SizedStruct for ChannelStats {
    const NAME: &'static str = "channel_stats_t";
    const FIRST: usize = 120;
}

const _: () = assert!(size_of::<ChannelStats>() == 144);

impl ChannelStats {
    fn of(hub: &Hub) -> ChannelStats {
        let stats = hub.stats();
        ChannelStats {
            size: size_of::<ChannelStats>(),
            messages: stats.messages,
            deliveries: stats.deliveries,
            unheard: stats.unheard,
            lost: stats.lost,
            wakes: stats.wakes,
            passes: stats.passes,
            joins: stats.joins,
            leaves: stats.leaves,
            channels: stats.channels,
            subscriptions: stats.subscriptions,
            cores: stats.cores,
            reaped: stats.reaped,
            quarantined: stats.quarantined,
            violations: stats.violations,
            shared: stats.shared,
            unshared: stats.unshared,
            assisted: stats.assisted,
        }
    }
}

/// Copies the counters of a hub. Set stats->size to sizeof(channel_stats_t) first.
///
/// Any thread of any process that has the hub. Never blocks. Not signal-safe. The
/// struct is the caller's, and written only on success. Errors: CHANNEL_E_NULL,
/// CHANNEL_E_SIZE, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_stats(
    hub: *const ChannelHub,
    stats: *mut ChannelStats,
) -> c_int {
    let copy = |hub: &Hub| {
        // SAFETY: the caller passes NULL or a struct of the size it says.
        unsafe { sized::write(stats, &ChannelStats::of(hub)) }.map(|()| 0)
    };
    // SAFETY: the caller passes NULL or a hub.
    unsafe { with_hub(hub, copy) }
}

/// Frees the hub in this process; the last process that does so, or ends, frees the
/// memory. (A child forked while the master's thread ran keeps it mapped until it
/// ends: it has a copy of what the thread held.) In the master's process the master
/// stops first: other processes then get CHANNEL_E_MASTER_GONE. Cores of this process
/// that are attached still stay usable handles, and must be detached all the same.
/// NULL is a no-op.
///
/// Any thread, when no other thread is in a call with this hub. Waits for the
/// master's thread to end its pass. Not signal-safe. The pointer is invalid
/// afterwards: the next calls with it give CHANNEL_E_DETACHED, as long as fewer
/// than 256 other hubs have been destroyed. Errors: CHANNEL_E_DETACHED,
/// CHANNEL_E_IN_USE (a thread is in channel_hub_poll; nothing was freed).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_destroy(hub: *mut ChannelHub) -> c_int {
    if hub.is_null() {
        return 0;
    }
    let destroy = |block: &ChannelHub| {
        block.destroy()?;
        // SAFETY: from ChannelHub::new; `destroy` succeeds once, and its parts are dropped.
        unsafe { GRAVES.bury(hub) };
        Ok(0)
    };
    // SAFETY: the caller passes a hub.
    unsafe { on_hub(hub, destroy) }
}
