//! Helpers that belong to a round but not to its workers: servers and proxies.
//!
//! Each is a child of this process, dies with it whatever ends it, and is ended and waited for when
//! its round is over, so that its processor time counts.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::support::crew::Failure;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory that is removed with everything in it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new directory, readable by this user only.
    pub fn new(what: &str) -> Result<Scratch, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let base = std::env::temp_dir();
        for attempt in 0.. {
            let path = base.join(format!("peers-{what}-{}-{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("one of all names is free")
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of `name` in it.
    pub fn join(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server of another make.
pub struct Server(Child);

impl Server {
    /// Starts `command` and returns when `answers` says that it is there.
    pub fn start(
        mut command: Command,
        mut answers: impl FnMut() -> bool,
    ) -> Result<Server, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: both calls may be made between fork and exec; they touch no lock and no memory.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                signal::sigprocmask(
                    signal::SigmaskHow::SIG_SETMASK,
                    Some(&SigSet::empty()),
                    None,
                )?;
                Ok(())
            });
        }
        let child = command
            .spawn()
            .map_err(|error| Failure::Broken(format!("{name}: {error}")))?;
        let mut server = Server(child);
        let deadline = Instant::now() + PATIENCE;
        while !answers() {
            if let Some(status) = server.0.try_wait()? {
                return Err(Failure::Broken(format!("{name} ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(Failure::Broken(format!("{name} does not answer")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program is in the path.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push(PathBuf::from("/usr/sbin"));
    folders.iter().any(|folder| folder.join(program).is_file())
}

/// A fork of this process that does one thing until it is ended.
pub struct Forked(Pid);

impl Forked {
    /// Runs `work` in a child. Fork before starting any thread of the round.
    pub fn start(work: impl FnOnce() -> String) -> Result<Forked, Failure> {
        // SAFETY: this process has one thread here, so the child may use all of the library.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Forked(child)),
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let _ = signal::sigprocmask(
                    signal::SigmaskHow::SIG_SETMASK,
                    Some(&SigSet::empty()),
                    None,
                );
                let work = std::panic::AssertUnwindSafe(work);
                if let Ok(text) = std::panic::catch_unwind(work) {
                    eprintln!("peers: a helper ended: {text}");
                }
                // SAFETY: _exit runs no handlers of the parent's, which a child must not run.
                unsafe { libc::_exit(1) }
            }
        }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // Not waited for yet, so the pid is still this child's.
        let _ = signal::kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}
