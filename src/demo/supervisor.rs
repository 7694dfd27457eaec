//! The master process: forks the workers, forks dead ones again, ends them all.
//!
//! It has one thread besides the router's, and that thread waits for signals
//! only. SIGCHLD, SIGINT, SIGTERM and SIGHUP are blocked and read from a
//! descriptor, so nothing happens inside a signal handler.

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use corecast::MasterThread;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::listen;
use super::restart::CrashGuard;
use super::worker::{self, Heritage};

/// How long workers may take to say goodbye to their pages.
const STOP_TIME: Duration = Duration::from_secs(4);
/// Exit code when somebody did not want to wait: 128 + SIGINT.
const FORCED: u8 = 130;

/// Turns the signals that the master obeys into a descriptor. To be called
/// while there is one thread, so that those that follow inherit the mask.
///
/// # Errors
/// The system's, if there are no descriptors left.
pub fn take_signals() -> nix::Result<SignalFd> {
    // A shell starts background jobs with SIGINT ignored, and an ignored signal
    // never becomes readable.
    set_handlers(&[Signal::SIGINT, Signal::SIGTERM], SigHandler::SigDfl)?;
    let mask = signals();
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Serves until a signal ends it; returns the exit code.
///
/// # Errors
/// When the router or the first workers cannot be started, or the master can no
/// longer wait for signals. Workers that run then are killed.
pub fn run(heritage: Heritage, signals: SignalFd) -> Result<ExitCode, Box<dyn Error>> {
    let router = heritage.hub.start()?;
    let slots = (0..heritage.hub.config().workers).map(Slot::new).collect();
    let mut master = Supervisor {
        heritage,
        signals,
        slots,
        router: Some(router),
        stop: None,
    };
    master.fork_due();
    master.greet()?;
    let code = master.watch();
    master.kill_all(Signal::SIGKILL);
    code
}

struct Supervisor {
    heritage: Heritage,
    signals: SignalFd,
    slots: Vec<Slot>,
    /// Taken when the workers are gone.
    router: Option<MasterThread>,
    stop: Option<Stop>,
}

/// The workers are told to stop, and killed at `deadline`.
struct Stop {
    deadline: Instant,
    forced: bool,
}

struct Slot {
    worker: u32,
    state: SlotState,
    guard: CrashGuard,
}

enum SlotState {
    Alive(Pid),
    /// To be forked then.
    Due(Instant),
    Ended,
}

impl Slot {
    fn new(worker: u32) -> Self {
        Slot {
            worker,
            state: SlotState::Due(Instant::now()),
            guard: CrashGuard::default(),
        }
    }

    fn pid(&self) -> Option<Pid> {
        match self.state {
            SlotState::Alive(pid) => Some(pid),
            _ => None,
        }
    }
}

impl Supervisor {
    fn watch(&mut self) -> Result<ExitCode, Box<dyn Error>> {
        loop {
            self.sleep()?;
            self.read_signals()?;
            self.collect_dead()?;
            match &self.stop {
                None => self.fork_due(),
                Some(_) if self.all_ended() => return self.finish(),
                Some(stop) if stop.deadline <= Instant::now() => self.kill_all(Signal::SIGKILL),
                Some(_) => {}
            }
        }
    }

    /// Sleeps until a signal comes or something is due.
    fn sleep(&self) -> nix::Result<()> {
        let timeout = self.next_due().map_or(PollTimeout::NONE, |at| {
            // Rounded up: waking early would only mean to sleep again.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let due = |slot: &Slot| match slot.state {
            SlotState::Due(at) => Some(at),
            _ => None,
        };
        match &self.stop {
            // Once killed there is nothing to wait for but SIGCHLD.
            Some(stop) => (!stop.forced).then_some(stop.deadline),
            None => self.slots.iter().filter_map(due).min(),
        }
    }

    fn read_signals(&mut self) -> nix::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            // SIGCHLD needs no more than waking up: several may arrive as one.
            if info.ssi_signo != Signal::SIGCHLD as u32 {
                self.asked_to_stop();
            }
        }
        Ok(())
    }

    fn asked_to_stop(&mut self) {
        let now = Instant::now();
        if self.stop.is_none() {
            say("stopping; once more to force it");
            self.stop = Some(Stop {
                deadline: now + STOP_TIME,
                forced: false,
            });
            for slot in &mut self.slots {
                if slot.pid().is_none() {
                    slot.state = SlotState::Ended;
                }
            }
            self.kill_all(Signal::SIGTERM);
        } else {
            self.stop = Some(Stop {
                deadline: now,
                forced: true,
            });
            self.kill_all(Signal::SIGKILL);
        }
    }

    fn kill_all(&mut self, signal: Signal) {
        for pid in self.slots.iter().filter_map(Slot::pid) {
            // Fails only for a child that was waited for, and those have no pid here.
            let _ = kill(pid, signal);
        }
    }

    fn collect_dead(&mut self) -> nix::Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(status) => self.bury(&status),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn bury(&mut self, status: &WaitStatus) {
        let Some(slot) = self
            .slots
            .iter_mut()
            .find(|s| s.pid().is_some() && s.pid() == status.pid())
        else {
            return;
        };
        if self.stop.is_some() {
            slot.state = SlotState::Ended;
            return;
        }
        // The router's own watch sees it as well; this may be sooner.
        let _ = self.heritage.hub.worker_died(slot.worker);
        let now = Instant::now();
        let pause = slot.guard.died(now);
        slot.state = SlotState::Due(now + pause);
        say(&format!("worker {}: {}", slot.worker, epitaph(status)));
        if !pause.is_zero() {
            let (worker, deaths) = (slot.worker, slot.guard.early_deaths());
            say(&format!(
                "worker {worker} died {deaths} times in a row right after its start; \
                 backing off: next try in {pause:?}"
            ));
        }
    }

    fn fork_due(&mut self) {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            if matches!(self.slots[index].state, SlotState::Due(at) if at <= now) {
                self.fork_slot(index, now);
            }
        }
    }

    fn fork_slot(&mut self, index: usize, now: Instant) {
        let worker = self.slots[index].worker;
        let again = self.slots[index].guard.was_born();
        let forked = fork_worker(&self.heritage, worker);
        let slot = &mut self.slots[index];
        slot.guard.born(now);
        match forked {
            Ok(pid) => {
                slot.state = SlotState::Alive(pid);
                if again {
                    say(&format!("worker {worker}: forked again as pid {pid}"));
                }
            }
            Err(error) => {
                let pause = slot.guard.died(now).max(Duration::from_millis(250));
                slot.state = SlotState::Due(now + pause);
                say(&format!(
                    "worker {worker}: fork failed ({error}); next try in {pause:?}"
                ));
            }
        }
    }

    fn greet(&self) -> io::Result<()> {
        let url = listen::url(self.heritage.listener.local_addr()?);
        let workers: Vec<String> = self
            .slots
            .iter()
            .filter_map(|slot| slot.pid().map(|pid| format!("{} = pid {pid}", slot.worker)))
            .collect();
        say(&format!("corecast demo on {url}"));
        say(&format!(
            "  master = pid {}, workers: {}",
            getpid(),
            workers.join(", ")
        ));
        say("  Open it in two windows: different workers serve them. Ctrl-C ends it.");
        Ok(())
    }

    fn all_ended(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| matches!(slot.state, SlotState::Ended))
    }

    fn finish(&mut self) -> Result<ExitCode, Box<dyn Error>> {
        if let Some(router) = self.router.take() {
            router.stop()?;
        }
        let forced = self.stop.as_ref().is_some_and(|stop| stop.forced);
        say("stopped");
        Ok(if forced {
            ExitCode::from(FORCED)
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn fork_worker(heritage: &Heritage, worker: u32) -> nix::Result<Pid> {
    let master = getpid();
    // Buffered output would be written by both.
    let _ = io::stdout().flush();
    // SAFETY: this process has one more thread, the router's, which holds no lock
    // that the child takes: it neither prints nor reads the environment, and the
    // C library makes its allocator usable in the child of any fork.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => child(heritage, worker, master),
    }
}

/// The child never returns into the master's code, not even by a panic.
fn child(heritage: &Heritage, worker: u32, master: Pid) -> ! {
    let life = || -> Result<(), Box<dyn Error>> {
        become_worker(master)?;
        worker::main(heritage, worker)
    };
    let code = match catch_unwind(AssertUnwindSafe(life)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("corecast: worker {worker}: {error}");
            1
        }
        Err(_) => 101,
    };
    std::process::exit(code)
}

/// A worker dies with its master, and leaves Ctrl-C to it: a terminal sends
/// SIGINT to all processes in front.
fn become_worker(master: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != master {
        // The master died before the line above.
        std::process::exit(1);
    }
    set_handlers(&[Signal::SIGINT, Signal::SIGHUP], SigHandler::SigIgn)?;
    signals().thread_unblock()
}

fn signals() -> SigSet {
    [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ]
    .into_iter()
    .collect()
}

fn set_handlers(signals: &[Signal], handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    for signal in signals {
        // SAFETY: the dispositions set here are "default" and "ignore": no code runs.
        unsafe { sigaction(*signal, &action) }?;
    }
    Ok(())
}

fn epitaph(status: &WaitStatus) -> String {
    match status {
        WaitStatus::Exited(pid, code) => format!("pid {pid} ended with code {code}"),
        WaitStatus::Signaled(pid, signal, _) => format!("pid {pid} was killed by {signal}"),
        other => format!("{other:?}"),
    }
}

/// A line for whoever watches the terminal; nobody may be there any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
