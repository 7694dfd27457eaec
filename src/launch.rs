//! `corecast run -- COMMAND`: a hub for servers that spawn or exec their workers.
//!
//! The launcher makes the hub, is its master, and starts the server as its child with the name of
//! the hub's socket in the environment ([`crate::SOCKET_VARIABLE`]). The server's processes, whoever
//! starts them, connect to it. It passes signals on, and ends with the server's exit code.
//!
//! One thread besides the master's, and that one waits for signals only.

mod options;

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use clap::Parser;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};

pub use self::options::Options;
use crate::{Hub, SOCKET_VARIABLE};

/// Exit codes of shells: what was wrong with the command.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
/// A shell's exit code for a signal is this and the signal's number.
const SIGNALLED: i32 = 128;
/// What is passed on to the server.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The launcher as a program of its own: reads the command line (the first word is the program's
/// name) and gives the exit code.
pub fn main(words: impl IntoIterator<Item = OsString>) -> u8 {
    match Program::try_parse_from(words) {
        Ok(Program {
            command: Verb::Run(options),
        }) => run(&options),
        Err(usage) => {
            // Help and versions come as errors too, with code 0.
            let _ = usage.print();
            u8::try_from(usage.exit_code()).unwrap_or(2)
        }
    }
}

/// Shared-memory publish/subscribe between the workers of a server
#[derive(Parser)]
#[command(name = "corecast", version, propagate_version = true)]
struct Program {
    #[command(subcommand)]
    command: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Start a server whose processes find a hub
    Run(Options),
}

/// Runs the command beside a hub until it ends; gives the exit code.
pub fn run(options: &Options) -> u8 {
    match launch(options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("corecast run: {error}");
            1
        }
    }
}

fn launch(options: &Options) -> Result<u8, Box<dyn Error>> {
    let hub = Hub::create(&options.config())?;
    let (signals, inherited) = take_signals()?;
    let master = hub.start()?;
    let socket = hub.listen(options.socket.as_deref(), 0)?;
    let code = match start(options, &socket, inherited) {
        Ok(child) => watch(&child, &signals)?,
        Err(error) => {
            let program = options.command[0].to_string_lossy();
            eprintln!("corecast run: cannot start {program}: {error}");
            match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_STARTED,
            }
        }
    };
    master.stop()?;
    Ok(code)
}

/// Turns the signals into a descriptor; gives also the mask that was in force, for the child.
fn take_signals() -> nix::Result<(SignalFd, SigSet)> {
    // Whoever started us may have ignored it: then the kernel would keep no exit code.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGCHLD, &default)? };
    let inherited = SigSet::thread_get_mask()?;
    let mut mask: SigSet = PASSED_ON.into_iter().collect();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?;
    Ok((signals, inherited))
}

fn start(options: &Options, socket: &str, mask: SigSet) -> io::Result<Child> {
    let mut command = Command::new(&options.command[0]);
    command.args(&options.command[1..]);
    command.env(SOCKET_VARIABLE, socket);
    let launcher = getpid();
    let prepare = move || {
        mask.thread_set_mask()?;
        // A server whose hub is gone ends; the launcher may have been killed before this call.
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
        if getppid() != launcher {
            return Err(Errno::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: runs between fork and exec; system calls on the stack's memory only.
    unsafe { command.pre_exec(prepare) }.spawn()
}

/// Passes signals on and reaps children until the server has ended; gives its exit code.
fn watch(child: &Child, signals: &SignalFd) -> Result<u8, Box<dyn Error>> {
    let server = Pid::from_raw(child.id() as i32);
    loop {
        let info = match signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let signal = Signal::try_from(info.ssi_signo as i32)?;
        if signal == Signal::SIGCHLD {
            if let Some(code) = reap(server) {
                return Ok(code);
            }
        } else if info.ssi_code != libc::SI_KERNEL {
            // (What a terminal sends, it sends to the server too.) It may have ended meanwhile.
            let _ = kill(server, signal);
        }
    }
}

/// Takes the ends of all children: as the first process of a container we get those of others too.
/// The server's exit code, if it is among them.
fn reap(server: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, status),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, SIGNALLED + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(_) => continue,
        };
        if pid == server {
            code = Some(status as u8);
        }
    }
}
