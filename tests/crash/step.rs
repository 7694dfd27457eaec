//! A process under ptrace: run to its next pause, stepped instruction by instruction, or run to an
//! instruction seen before by means of the processor's own breakpoint register.

use std::mem::offset_of;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::common::{Child, trace};

/// How long a tracee that runs to an instruction may take.
const PATIENCE: Duration = Duration::from_millis(50);

/// Tells the tracer that it is its turn; returns when it lets us go on.
pub fn pause() {
    // SAFETY: a signal to the calling thread, which its tracer takes away.
    unsafe { libc::raise(libc::SIGTRAP) };
}

/// A traced child, stopped whenever it is not inside of one of the methods here.
pub struct Tracee(Child);

impl Tracee {
    /// Forks; the child stands right before `body`.
    pub fn new(body: impl FnOnce()) -> Self {
        Self(trace::traced(body))
    }

    /// Lets it run until it stops; false when it has ended instead.
    pub fn resume(&self) -> bool {
        trace::ptrace(libc::PTRACE_CONT, self.0.pid(), 0, 0);
        self.wait()
    }

    /// Lets it run, and returns at once.
    pub fn go(&self) {
        trace::ptrace(libc::PTRACE_CONT, self.0.pid(), 0, 0);
    }

    /// Whether it has stopped since [`Self::go`].
    pub fn has_paused(&self) -> bool {
        self.look(libc::WNOHANG).is_some()
    }

    /// Lets it execute one instruction; false when it has ended instead.
    pub fn step(&self) -> bool {
        trace::ptrace(libc::PTRACE_SINGLESTEP, self.0.pid(), 0, 0);
        self.wait()
    }

    /// The address of its next instruction.
    pub fn at(&self) -> usize {
        self.peek(offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rip))
    }

    /// The number of the system call that its next instruction, at `at`, is; None for any other.
    pub fn system_call(&self, at: usize) -> Option<i64> {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        // SAFETY: the child has been forked from this process and has loaded nothing since, so
        // what it executes is mapped here at the same place; two bytes of an instruction are at
        // worst followed by another's.
        let code = unsafe { std::ptr::read_unaligned(at as *const [u8; 2]) };
        let rax = offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rax);
        (code == SYSCALL).then(|| self.peek(rax) as i64)
    }

    /// Runs until it is about to execute the instruction at `at` for the `nth` time from now on;
    /// false when it paused or ended before. `over` tells whether it has.
    pub fn run_to(&self, at: usize, nth: usize, over: impl Fn() -> bool) -> bool {
        const EXECUTE_0: usize = 1;
        self.poke(debug_register(0), at);
        self.poke(debug_register(7), EXECUTE_0);
        let arrived = (0..nth).all(|_| {
            self.go();
            self.pauses_soon() && !over()
        });
        if arrived {
            self.poke(debug_register(7), 0);
        }
        arrived && self.at() == at
    }

    /// False when it has ended, or does not come to where it is wanted: it may wait for the
    /// master, who has no time for it.
    fn pauses_soon(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match self.look(libc::WNOHANG) {
                None => std::thread::yield_now(),
                Some(has_stopped) => return has_stopped,
            }
        }
        false
    }

    /// No longer traced, and stopped by a SIGSTOP like any other process.
    pub fn stop_for_real(self) -> Child {
        let pid = self.0.pid();
        trace::ptrace(libc::PTRACE_DETACH, pid, 0, libc::SIGSTOP as usize);
        let stopped = WaitStatus::Stopped(pid, Signal::SIGSTOP);
        assert_eq!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)), Ok(stopped));
        self.0
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(self) {
        self.0.kill();
    }

    fn wait(&self) -> bool {
        self.look(0).expect("a change of state")
    }

    /// Whether it has stopped (true) or ended (false) since it was let go; None: neither.
    fn look(&self, flags: i32) -> Option<bool> {
        let mut status = 0;
        let child = self.0.pid().as_raw();
        // SAFETY: a live local for the status.
        let pid = unsafe { libc::waitpid(child, &raw mut status, flags) };
        if pid == 0 {
            return None;
        }
        assert_eq!(pid, child, "waitpid");
        if libc::WIFSTOPPED(status) {
            assert_eq!(libc::WSTOPSIG(status), libc::SIGTRAP, "a signal of its own");
        }
        Some(libc::WIFSTOPPED(status))
    }

    fn peek(&self, offset: usize) -> usize {
        trace::ptrace(libc::PTRACE_PEEKUSER, self.0.pid(), offset, 0)
    }

    fn poke(&self, offset: usize, value: usize) {
        trace::ptrace(libc::PTRACE_POKEUSER, self.0.pid(), offset, value);
    }
}

fn debug_register(n: usize) -> usize {
    offset_of!(libc::user, u_debugreg) + n * size_of::<usize>()
}
