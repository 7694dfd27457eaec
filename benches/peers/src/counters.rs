//! System calls and wake-ups of everything a round starts, counted by the kernel.
//!
//! Two tracepoints are counted, inherited by every thread and process that this one starts. That
//! costs a little with each event, so rounds that are counted give no other figure.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the kernel describes its tracepoints.
const TRACING: &str = "/sys/kernel/tracing";

/// Makes the descriptions of tracepoints readable, if need be and if this user may: in a mount
/// namespace of its own, so that nothing of it stays. Call it before any thread is started.
pub fn prepare() {
    if fs::exists(format!("{TRACING}/events")).unwrap_or(false) || !nix::unistd::geteuid().is_root()
    {
        return;
    }
    let none: Option<&str> = None;
    // What fails here shows as figures that are missing.
    let _ = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| {
            mount(
                Some("tracefs"),
                TRACING,
                Some("tracefs"),
                MsFlags::empty(),
                none,
            )
        });
}

/// Counters that run.
pub struct Counters {
    calls: OwnedFd,
    wakes: OwnedFd,
}

/// What they have counted.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// System calls.
    pub calls: u64,
    /// Tasks woken.
    pub wakes: u64,
}

impl Counters {
    /// Counts from now on what this thread starts; None where the kernel does not let us.
    pub fn start() -> Option<Counters> {
        Some(Counters {
            calls: open("raw_syscalls/sys_enter").ok()?,
            wakes: open("sched/sched_wakeup").ok()?,
        })
    }

    /// What has been counted, processes that have ended included.
    pub fn read(self) -> io::Result<Counts> {
        Ok(Counts {
            calls: value(self.calls)?,
            wakes: value(self.wakes)?,
        })
    }
}

fn value(counter: OwnedFd) -> io::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::from(counter).read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The first version of the kernel's `perf_event_attr`, which all later ones understand.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const KIND_TRACEPOINT: u32 = 2;
const FLAG_INHERIT: u64 = 1 << 1;

fn open(event: &str) -> io::Result<OwnedFd> {
    let text = fs::read_to_string(format!("{TRACING}/events/{event}/id"))?;
    let attributes = Attributes {
        kind: KIND_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: text.trim().parse().map_err(io::Error::other)?,
        flags: FLAG_INHERIT,
        ..Attributes::default()
    };
    // SAFETY: the kernel reads `size` bytes of the attributes; the rest are numbers: this thread,
    // any processor, no group, closed on exec.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            0,
            -1,
            -1,
            8,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
