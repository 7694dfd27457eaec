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

    /// Whether the futex call ahead would sleep: the word, in memory shared with this process at
    /// the same address, still is what the caller has seen.
    pub fn would_sleep(&self) -> bool {
        let registers = offset_of!(libc::user, regs);
        let word = self.peek(registers + offset_of!(libc::user_regs_struct, rdi));
        let seen = self.peek(registers + offset_of!(libc::user_regs_struct, rdx));
        // SAFETY: workers wait on words of the region, which is mapped here where it was when the
        // child was forked.
        let now = unsafe { std::ptr::read_volatile(word as *const u32) };
        now == seen as u32
    }

    /// True if its next instruction certainly stores nothing but on the stack: it is not among
    /// those that are known for that, or is known to have no result in memory.
    pub fn only_reads(&self) -> bool {
        // SAFETY: as in `system_call`; what lies behind the instruction is not looked at.
        let code = unsafe { std::ptr::read_unaligned(self.at() as *const [u8; 6]) };
        only_reads(&code)
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

/// Whether an instruction is one of the common ones of 64-bit code that store nowhere, or only
/// where they push. False when in doubt.
fn only_reads(code: &[u8; 6]) -> bool {
    let mut rest = &code[..];
    // Operand size and REX; prefixes that make strings or locks leave us in doubt.
    while let [0x66 | 0x40..=0x4f, tail @ ..] = rest {
        rest = tail;
    }
    let is_register = |modrm: u8| modrm >> 6 == 3;
    match *rest {
        // Jumps, pushes and pops of registers, returns, calls, constants into registers.
        [
            0x70..=0x7f | 0xeb | 0xe8 | 0xe9 | 0x50..=0x5f | 0xc3 | 0xb8..=0xbf | 0x90,
            ..,
        ] => true,
        [
            0x0f,
            0x80..=0x8f | 0x40..=0x4f | 0xb6 | 0xb7 | 0xbe | 0xbf | 0x1f | 0xaf,
            ..,
        ] => true,
        [0x0f, _, ..] => false,
        // Comparisons, loads, and arithmetic whose result is a register.
        [
            0x38..=0x3d | 0x84 | 0x85 | 0xa8 | 0xa9 | 0x8a | 0x8b | 0x8d | 0x63,
            ..,
        ] => true,
        [op @ 0x00..=0x33, ..] if op & 7 == 2 || op & 7 == 3 => true,
        // The same instructions with the result first: into a register.
        [op @ 0x00..=0x31, modrm, ..] if op & 7 < 2 => is_register(modrm),
        [0x80 | 0x81 | 0x83, modrm, ..] => is_register(modrm) || modrm >> 3 & 7 == 7,
        [0xf6 | 0xf7, modrm, ..] => is_register(modrm) || modrm >> 3 & 7 < 2,
        [0x88 | 0x89 | 0xc0 | 0xc1 | 0xd0..=0xd3, modrm, ..] => is_register(modrm),
        _ => false,
    }
}

fn debug_register(n: usize) -> usize {
    offset_of!(libc::user, u_debugreg) + n * size_of::<usize>()
}
