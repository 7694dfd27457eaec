//! Watching a child through ptrace: counting its system calls, and stepping it
//! (`tests/crash` has a faster way of its own).
//! Needs no tool, and does not slow down what makes no system call.

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Child, fork};

/// What a marked stretch of a child's life did.
#[derive(Debug, Default)]
pub struct Trace {
    /// Number of each system call made between the marks, in order, by all its threads.
    pub calls: Vec<u64>,
    /// True when both marks were seen.
    pub is_complete: bool,
}

/// The child says: what matters begins, or is over. A system call that nobody else makes.
pub fn mark() {
    // SAFETY: an invalid descriptor is refused and nothing else happens.
    unsafe { libc::syscall(libc::SYS_close, MARK) };
}

const MARK: i64 = -7_654_321;

/// Runs `body` in a child and records the system calls that it and its threads make between two
/// calls of [`mark`].
pub fn syscalls(body: impl FnOnce()) -> Trace {
    let child = traced(body);
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
    ptrace(libc::PTRACE_SETOPTIONS, child.pid(), 0, options as usize);
    ptrace(libc::PTRACE_SYSCALL, child.pid(), 0, 0);
    let (mut trace, mut marks) = (Trace::default(), 0);
    while let Some(pid) = next_stop(child.pid()) {
        if let Some(number) = entry(pid.0, pid.1) {
            match number {
                MARKED => marks += 1,
                number if marks == 1 => trace.calls.push(number),
                _ => {}
            }
        }
        ptrace(libc::PTRACE_SYSCALL, pid.0, 0, deliver(pid.1));
    }
    trace.is_complete = marks == 2;
    std::mem::forget(child); // reaped by next_stop
    trace
}

/// A child stopped before `body`, traced by this thread.
pub fn traced(body: impl FnOnce()) -> Child {
    let child = fork(|| {
        // SAFETY: asks to be traced by the parent; no memory involved.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        nix::sys::signal::raise(Signal::SIGSTOP).expect("raise");
        body();
    });
    let stopped = WaitStatus::Stopped(child.pid(), Signal::SIGSTOP);
    assert_eq!(waitpid(child.pid(), None), Ok(stopped), "may we ptrace?");
    child
}

/// Lets a traced child run until its next [`mark`] has been made.
pub fn run_to_mark(child: &Child) {
    let (pid, options) = (child.pid(), libc::PTRACE_O_TRACESYSGOOD as usize);
    ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options);
    let mut entered = false;
    loop {
        ptrace(libc::PTRACE_SYSCALL, pid, 0, 0);
        let status = waitpid(pid, None).expect("waitpid");
        assert!(matches!(status, WaitStatus::PtraceSyscall(_)), "{status:?}");
        if entered {
            return;
        }
        entered = entry(pid, status) == Some(MARKED);
    }
}

/// Lets a traced child execute one instruction.
pub fn step(child: &Child) {
    ptrace(libc::PTRACE_SINGLESTEP, child.pid(), 0, 0);
    let stopped = WaitStatus::Stopped(child.pid(), Signal::SIGTRAP);
    assert_eq!(waitpid(child.pid(), None), Ok(stopped));
}

/// Pseudo number of the marking call.
const MARKED: u64 = u64::MAX;

/// The number of the system call that a thread is about to make.
fn entry(pid: Pid, status: WaitStatus) -> Option<u64> {
    if !matches!(status, WaitStatus::PtraceSyscall(_)) {
        return None;
    }
    let mut info = std::mem::MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel fills at most `size` bytes of a live local, which is plain data.
    let info = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            pid.as_raw(),
            size,
            info.as_mut_ptr(),
        );
        info.assume_init()
    };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: `op` says that the union holds an entry.
    let entry = unsafe { info.u.entry };
    let is_mark = entry.nr == libc::SYS_close as u64 && entry.args[0] as i32 == MARK as i32;
    Some(if is_mark { MARKED } else { entry.nr })
}

/// The next thread to stop, and why; None once the child has ended well.
fn next_stop(child: Pid) -> Option<(Pid, WaitStatus)> {
    // Not the children of other tests' threads.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let status = waitpid(None, Some(flags)).expect("waitpid");
        match status {
            WaitStatus::Exited(pid, code) if pid == child => {
                assert_eq!(code, 0, "the traced child failed");
                return None;
            }
            WaitStatus::Signaled(pid, signal, _) if pid == child => panic!("killed by {signal}"),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {}
            status => return Some((status.pid()?, status)),
        }
    }
}

/// The signal to pass on: real ones, not those that tracing itself makes.
fn deliver(status: WaitStatus) -> usize {
    match status {
        WaitStatus::Stopped(_, signal) if signal != Signal::SIGSTOP => signal as usize,
        _ => 0,
    }
}

/// A ptrace request whose memory arguments, if any, lie in the child; what it returned.
pub fn ptrace(request: libc::c_uint, pid: Pid, at: usize, data: usize) -> usize {
    // SAFETY: no memory of this process is involved, except that PEEK requests of glibc return
    // their word through a local of its own; fails harmlessly for a thread that has just ended.
    unsafe { libc::ptrace(request, pid.as_raw(), at, data) as usize }
}

/// Runs `body` in a child and makes the `nth` (from 0) of those system calls fail with `errno` that
/// its first thread makes between two calls of [`mark`] and that `may_fail` names: the kernel does
/// not get to see it. Returns that call's number, None if there were not so many, and how the child
/// ended.
pub fn with_failure(
    nth: usize,
    errno: i32,
    may_fail: impl Fn(i64) -> bool,
    body: impl FnOnce(),
) -> (Option<i64>, WaitStatus) {
    let child = traced(body);
    let pid = child.pid();
    let options = libc::PTRACE_O_TRACESYSGOOD as usize;
    ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options);
    let (mut marks, mut seen, mut failed, mut signal) = (0, 0, None, 0);
    let end = loop {
        // After the second mark nothing is of interest but the end.
        let request = if marks < 2 {
            libc::PTRACE_SYSCALL
        } else {
            libc::PTRACE_CONT
        };
        ptrace(request, pid, 0, signal);
        let status = waitpid(pid, None).expect("waitpid");
        if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
            break status;
        }
        signal = deliver(status);
        match entry(pid, status) {
            Some(MARKED) => marks += 1,
            Some(number) if marks == 1 && failed.is_none() && may_fail(number as i64) => {
                if seen == nth {
                    refuse(pid, errno);
                    failed = Some(number as i64);
                }
                seen += 1;
            }
            _ => {}
        }
    };
    std::mem::forget(child); // reaped above
    (failed, end)
}

/// At the entry of a system call: lets it fail instead of being made.
fn refuse(pid: Pid, errno: i32) {
    const NONE: usize = usize::MAX;
    let register = |of: usize| std::mem::offset_of!(libc::user, regs) + of;
    let number = register(std::mem::offset_of!(libc::user_regs_struct, orig_rax));
    let result = register(std::mem::offset_of!(libc::user_regs_struct, rax));
    ptrace(libc::PTRACE_POKEUSER, pid, number, NONE);
    ptrace(libc::PTRACE_SYSCALL, pid, 0, 0);
    let left = waitpid(pid, None).expect("waitpid");
    assert!(matches!(left, WaitStatus::PtraceSyscall(_)), "{left:?}");
    ptrace(
        libc::PTRACE_POKEUSER,
        pid,
        result,
        -i64::from(errno) as usize,
    );
}
