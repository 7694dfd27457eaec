//! What the tests with real processes share: children that cannot outlive them, a watchdog,
//! memory shared across fork, and patience with a limit.

// Each test binary uses its own part of this.
#![allow(dead_code)]
// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

pub mod doomed;
pub mod trace;

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork as raw_fork};

/// Longer than anything here takes on a busy machine; what takes longer hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// Exit code of a child that panicked.
const PANICKED: i32 = 101;

/// A forked child. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    reaped: bool,
}

/// Runs `body` in a forked child, which then exits with code 0, or 101 if it panicked (its message
/// goes to stderr). The child is killed if the calling thread ends first.
pub fn fork(body: impl FnOnce()) -> Child {
    // SAFETY: the child runs `body` and ends with `_exit`; it uses none of the parent's threads,
    // and glibc makes its allocator usable after fork.
    match unsafe { raw_fork() }.expect("fork") {
        ForkResult::Parent { child } => Child {
            pid: child,
            reaped: false,
        },
        ForkResult::Child => run_child(body),
    }
}

fn run_child(body: impl FnOnce()) -> ! {
    // SAFETY: plain system calls without memory; `_exit` keeps the parent's destructors from
    // running here.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        std::panic::set_hook(Box::new(|info| say(&format!("in a child: {info}\n"))));
        let outcome = catch_unwind(AssertUnwindSafe(body));
        libc::_exit(if outcome.is_ok() { 0 } else { PANICKED });
    }
}

/// Writes to stderr around the test harness's capture, which keeps a child's words to itself.
pub fn say(text: &str) {
    // SAFETY: writes from a live buffer. A failure has nobody to go to.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

impl Child {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("a child that is not reaped can be signalled");
    }

    /// SIGSTOP, and waits until all of its threads stand still: they may go on for a moment.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let stands = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state is behind the name, which is in parentheses.
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" T"))
        };
        wait_until("the child stands still", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("procfs");
            tasks.flatten().all(stands)
        });
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGKILL without waiting: the child stays a zombie until dropped.
    pub fn kill_only(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Waits for an exit of its own with code 0.
    pub fn join(mut self) {
        let status = waitpid(self.pid, None).expect("waitpid");
        self.reaped = true;
        assert_eq!(status, WaitStatus::Exited(self.pid, 0), "a child failed");
    }

    /// True when it has ended on its own, however.
    pub fn is_over(&mut self) -> bool {
        if !self.reaped {
            let status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("waitpid");
            self.reaped = status != WaitStatus::StillAlive;
        }
        self.reaped
    }

    /// Waits for its end: the signal that brought it about, if one did.
    pub fn signal_of_end(mut self) -> Option<Signal> {
        self.reaped = true;
        match waitpid(self.pid, None).expect("waitpid") {
            WaitStatus::Signaled(_, signal, _) => Some(signal),
            _ => None,
        }
    }

    /// True when it has ended on its own; panics if it ended badly.
    pub fn has_ended(&mut self) -> bool {
        if self.reaped {
            return true;
        }
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("waitpid") {
            WaitStatus::StillAlive => false,
            status => {
                self.reaped = true;
                assert_eq!(status, WaitStatus::Exited(self.pid, 0), "a child failed");
                true
            }
        }
    }

    fn end(&mut self) {
        if !self.reaped {
            self.reaped = true;
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Keeps other tests of this process waiting, if the runner gives each a thread instead of a
/// process: for tests that look at what the whole process has.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the test process if it is not dropped in time; the children go with it.
#[derive(Debug)]
pub struct Watchdog(#[allow(dead_code)] Sender<()>);

impl Watchdog {
    pub fn new(limit: Duration) -> Self {
        let (alive, dropped) = channel::<()>();
        std::thread::spawn(move || {
            if dropped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                say(&format!("watchdog: still not done after {limit:?}\n"));
                std::process::abort();
            }
        });
        Self(alive)
    }
}

/// This thread, and the children it forks from now on, stay on one CPU: handing over to each other
/// costs a tenth of waking another CPU. Tests that run at the same time take different ones, where the
/// runner tells them apart: who shares a CPU with another busy test waits for its time slices.
pub fn stay_on_one_cpu() {
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT");
    let slot = slot.ok().and_then(|slot| slot.parse().ok());
    // SAFETY: takes nothing and touches nothing.
    stay_on_nth_cpu(slot.unwrap_or_else(|| unsafe { libc::sched_getcpu() }.max(0) as usize));
}

/// The same on the `n`th of the CPUs that it may use, counted round.
pub fn stay_on_nth_cpu(n: usize) {
    // SAFETY: a CPU set is plain data; the calls fill or read a live local of its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        let count = libc::CPU_COUNT(&set).max(1) as usize;
        let cpus = 0..8 * size_of::<libc::cpu_set_t>();
        if let Some(cpu) = cpus.filter(|&c| libc::CPU_ISSET(c, &set)).nth(n % count) {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
        }
    }
}

/// Zeroed words that parent and children share; never unmapped. Costs memory only where touched.
pub fn shared_words(count: usize) -> &'static [AtomicU64] {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping of `count` zeroed words, kept for the life of the process; zero is
    // a valid atomic.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), count * 8, prot, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED, "mmap of {count} shared words");
        std::slice::from_raw_parts(at.cast(), count)
    }
}

/// Waits until `done`, and panics after [`LONG`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// True when somebody who polls `fd` would go on at once.
pub fn is_readable(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("polled") == 1
}

/// Open file descriptors of this process, the one for looking included.
pub fn open_fds() -> usize {
    // The least of several looks: the master opens a file of procfs for a moment now and then.
    let look = |_| {
        std::thread::sleep(Duration::from_millis(1));
        std::fs::read_dir("/proc/self/fd").expect("procfs").count()
    };
    (0..5).map(look).min().expect("five looks")
}

/// xorshift: enough to vary a schedule, and repeatable.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Evenly in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
