//! The processes of one round: forked, started together, watched, and never left behind.
//!
//! Each member is a forked process. It gets ready, waits at the gate (a pipe whose end of file
//! starts all of them at once), works, and writes one line of JSON to a shared pipe. The parent
//! waits for those lines, for a signal, for a member that dies without a word, and for the round's
//! time limit, whichever is first; dropping the crew kills whoever is left.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{self, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde::{Deserialize, Serialize};

/// What a member says when its work is done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// `CLOCK_MONOTONIC` nanoseconds when the work was done.
    pub finished: u64,
    /// Messages a sender sent.
    pub sent: u64,
    /// Messages a receiver checked.
    pub received: u64,
    /// System calls for moving and waiting, as far as the member counts them.
    pub calls: u64,
    /// Processor nanoseconds of the member's whole life; the crew fills it in.
    pub cpu: u64,
}

/// Why a round gave no figure.
#[derive(Debug)]
pub enum Failure {
    /// SIGINT or SIGTERM came.
    Interrupted,
    /// A member failed, or the round could not be set up; the text says how.
    Broken(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Broken(error.to_string())
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Broken(errno.to_string())
    }
}

#[derive(Serialize, Deserialize)]
enum Line {
    Ready,
    Done { member: usize, report: Report },
    Failed { member: usize, text: String },
}

/// Nanoseconds on a clock that all processes share.
pub fn now() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> u64 {
    let time: TimeSpec = clock_gettime(clock).expect("a clock that every kernel has");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Signals the parent reads from a descriptor; block them before the first round.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks SIGINT, SIGTERM and SIGCHLD in this process. Threads started later inherit it.
    pub fn block() -> io::Result<Signals> {
        let set = watched();
        signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        Ok(Signals(SignalFd::with_flags(
            &set,
            SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
        )?))
    }

    /// Reads all pending signals; true when one of them asks to stop.
    fn stop_asked(&self) -> io::Result<bool> {
        let mut stop = false;
        while let Some(info) = self.0.read_signal()? {
            stop |= info.ssi_signo != Signal::SIGCHLD as u32;
        }
        Ok(stop)
    }
}

fn watched() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD]
        .into_iter()
        .collect()
}

struct Member {
    pid: Pid,
    name: String,
    reported: bool,
    gone: bool,
}

/// A member's place at the gate.
pub struct Gate {
    gate: File,
    lines: File,
}

impl Gate {
    /// Says that this member is ready and returns when all may start.
    pub fn wait(&mut self) -> Result<(), String> {
        self.say(&Line::Ready)?;
        let started = self
            .gate
            .read(&mut [0])
            .map_err(|error| format!("gate: {error}"))?;
        if started == 0 {
            Ok(())
        } else {
            Err("the gate holds bytes".to_owned())
        }
    }

    fn say(&mut self, line: &Line) -> Result<(), String> {
        let text = serde_json::to_string(line).map_err(|error| error.to_string())? + "\n";
        // One write of less than PIPE_BUF bytes is never mixed with another member's.
        self.lines
            .write_all(text.as_bytes())
            .map_err(|error| format!("report: {error}"))
    }
}

/// The processes of one round.
pub struct Crew<'a> {
    signals: &'a Signals,
    members: Vec<Member>,
    gate: (OwnedFd, Option<OwnedFd>),
    lines: (File, Option<OwnedFd>),
    partial: Vec<u8>,
    deadline: Instant,
    limit: Duration,
}

impl Crew<'_> {
    /// An empty crew whose round must be over within `limit` from now.
    pub fn new(signals: &Signals, limit: Duration) -> Result<Crew<'_>, Failure> {
        let (gate_read, gate_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (lines_read, lines_write) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Crew {
            signals,
            members: Vec::new(),
            gate: (gate_read, Some(gate_write)),
            lines: (File::from(lines_read), Some(lines_write)),
            partial: Vec::new(),
            deadline: Instant::now() + limit,
            limit,
        })
    }

    /// Forks a member that runs `work`. Fork before starting any thread of the round.
    pub fn spawn<F>(&mut self, name: String, work: F) -> Result<(), Failure>
    where
        F: FnOnce(&mut Gate) -> Result<Report, String>,
    {
        let member = self.members.len();
        // SAFETY: this process has one thread here, so the child may use all of the library.
        match unsafe { fork() }? {
            ForkResult::Parent { child: pid } => {
                self.members.push(Member {
                    pid,
                    name,
                    reported: false,
                    gone: false,
                });
                Ok(())
            }
            ForkResult::Child => self.live(member, &name, work),
        }
    }

    /// The child's whole life; it never returns into the parent's code.
    fn live<F>(&mut self, member: usize, name: &str, work: F) -> !
    where
        F: FnOnce(&mut Gate) -> Result<Report, String>,
    {
        // The siblings are the parent's to kill, not this child's.
        self.members.clear();
        // For ps and perf; a name they cannot show is no failure.
        let _ = CString::new(name).map(|name| nix::sys::prctl::set_name(&name));
        let code = catch_unwind(AssertUnwindSafe(|| self.serve(member, work))).unwrap_or(2);
        // SAFETY: _exit runs no handlers of the parent's, which a forked child must not run.
        unsafe { libc::_exit(code) }
    }

    fn serve<F>(&mut self, member: usize, work: F) -> i32
    where
        F: FnOnce(&mut Gate) -> Result<Report, String>,
    {
        let Ok(mut gate) = self.enter() else { return 3 };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut gate)))
            .unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
        let line = match outcome {
            Ok(report) => Line::Done {
                member,
                report: Report {
                    cpu: read(ClockId::CLOCK_PROCESS_CPUTIME_ID),
                    ..report
                },
            },
            Err(text) => Line::Failed { member, text },
        };
        i32::from(gate.say(&line).is_err())
    }

    /// Makes the child's own use of signals and pipes.
    fn enter(&mut self) -> io::Result<Gate> {
        // No member outlives the parent, whatever ends it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        signal::sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&watched()), None)?;
        drop(self.gate.1.take());
        let lines = self.lines.1.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Gate {
            gate: File::from(self.gate.0.try_clone()?),
            lines: File::from(lines),
        })
    }

    /// Waits until every member is at the gate.
    pub fn assemble(&mut self) -> Result<(), Failure> {
        drop(self.lines.1.take());
        let mut ready = 0;
        while ready < self.members.len() {
            match self.next_line()? {
                Line::Ready => ready += 1,
                Line::Done { member, .. } => return Err(self.broke(member, "did not wait")),
                Line::Failed { member, text } => return Err(self.broke(member, &text)),
            }
        }
        Ok(())
    }

    /// Opens the gate; returns the time of it.
    pub fn start(&mut self) -> u64 {
        let started = now();
        drop(self.gate.1.take());
        started
    }

    /// Waits for every member's report, in the order of their spawning.
    pub fn reports(&mut self) -> Result<Vec<Report>, Failure> {
        let mut reports = vec![Report::default(); self.members.len()];
        while self.members.iter().any(|member| !member.reported) {
            match self.next_line()? {
                Line::Ready => {}
                Line::Failed { member, text } => return Err(self.broke(member, &text)),
                Line::Done { member, report } => {
                    self.members[member].reported = true;
                    reports[member] = report;
                }
            }
        }
        Ok(reports)
    }

    /// Waits until every member has exited, so that its processor time counts as the parent's.
    pub fn disband(&mut self) -> Result<(), Failure> {
        while let Some(member) = self.members.iter_mut().find(|member| !member.gone) {
            waitpid(member.pid, None)?;
            member.gone = true;
        }
        Ok(())
    }

    fn next_line(&mut self) -> Result<Line, Failure> {
        loop {
            if let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| Failure::Broken(format!("a report: {error}")));
            }
            self.wait_for_news()?;
        }
    }

    fn wait_for_news(&mut self) -> Result<(), Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(self.lines.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.0.as_fd(), PollFlags::POLLIN),
        ];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => return Err(self.stuck()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (lines, signals) = (fds[0].any() == Some(true), fds[1].any() == Some(true));
        if lines {
            return self.read_lines();
        }
        if signals { self.heed_signals() } else { Ok(()) }
    }

    fn read_lines(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 4096];
        let count = self.lines.0.read(&mut bytes)?;
        self.partial.extend_from_slice(&bytes[..count]);
        if count == 0 {
            Err(self.stuck())
        } else {
            Ok(())
        }
    }

    fn heed_signals(&mut self) -> Result<(), Failure> {
        if self.signals.stop_asked()? {
            return Err(Failure::Interrupted);
        }
        for member in self.members.iter_mut().filter(|member| !member.gone) {
            let status = waitpid(member.pid, Some(WaitPidFlag::WNOHANG))?;
            member.gone = status != WaitStatus::StillAlive;
            if member.gone && status != WaitStatus::Exited(member.pid, 0) {
                let text = format!("{} ended without a report: {status:?}", member.name);
                return Err(Failure::Broken(text));
            }
        }
        Ok(())
    }

    fn broke(&self, member: usize, text: &str) -> Failure {
        Failure::Broken(format!("{}: {text}", self.members[member].name))
    }

    fn stuck(&self) -> Failure {
        let waiting: Vec<&str> = self
            .members
            .iter()
            .filter(|member| !member.reported)
            .map(|member| member.name.as_str())
            .collect();
        Failure::Broken(format!(
            "not finished after {:.0?}; killed while waiting for: {}",
            self.limit,
            waiting.join(", ")
        ))
    }
}

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        for member in self.members.iter().filter(|member| !member.gone) {
            // Not waited for yet, so the pid is still this child's.
            let _ = signal::kill(member.pid, Signal::SIGKILL);
        }
        for member in self.members.iter().filter(|member| !member.gone) {
            let _ = waitpid(member.pid, None);
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("no text"))
}
