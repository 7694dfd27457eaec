//! A master on a thread of its own: turns of work and sleep until it is told to stop.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::{Master, NOT_AT_ALL};
use crate::error::MasterError;
use crate::hub::Inner;
use crate::sync::{AtomicBool, Ordering};

/// A master on a thread of its own. Stops when told, or when dropped.
#[derive(Debug)]
pub struct MasterThread {
    hub: Arc<Inner>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), MasterError>>>,
    pid: u32,
}

impl MasterThread {
    pub(crate) fn start(mut master: Master) -> Result<Self, MasterError> {
        let (hub, pid) = (Arc::clone(&master.hub), master.pid);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("corecast".into())
            .spawn(move || {
                block_signals();
                // SYNC(master.stop): pairs with the store in `end`; carries no data.
                while !stopped.load(Ordering::Acquire) {
                    match master.turn() {
                        // It may be let go on, or killed; nobody here can be told.
                        Ok(()) | Err(MasterError::Assisted { .. }) => {}
                        Err(other) => return Err(other),
                    }
                }
                Ok(())
            })
            .map_err(|e| MasterError::Os {
                call: "pthread_create",
                errno: e.raw_os_error().unwrap_or(libc::EAGAIN),
            })?;
        Ok(Self {
            hub,
            stop,
            thread: Some(thread),
            pid,
        })
    }

    /// Ends the master. Cores learn that it is gone.
    ///
    /// # Errors
    /// Whatever made the thread end before.
    pub fn stop(mut self) -> Result<(), MasterError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), MasterError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        if self.hub.mark.current() != self.pid {
            std::mem::forget(thread); // a forked child has no such thread
            return Err(MasterError::WrongProcess);
        }
        // SYNC(master.stop): pairs with the thread's load.
        self.stop.store(true, Ordering::Release);
        self.hub.notify_router();
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for MasterThread {
    fn drop(&mut self) {
        // Errors have no one to go to here; `stop` reports them.
        let _ = self.end();
    }
}

impl Master {
    /// One turn of the thread: work, then sleep until there is more.
    fn turn(&mut self) -> Result<(), MasterError> {
        self.keep_pulse();
        // After a wait for a helper in vain the router is not this thread's.
        let idle = !self.has_missed && self.work().1;
        let may_sleep = idle && self.may_sleep();
        let events = self.wait(if may_sleep { None } else { NOT_AT_ALL })?;
        self.handle(events);
        Ok(())
    }
}

/// The host's signals are the host's threads' business.
fn block_signals() {
    use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
}
