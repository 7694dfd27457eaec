//! A master on a thread of its own: turns of work and sleep until it is told to stop.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::{Master, NOT_AT_ALL, STREAM};
use crate::error::MasterError;
use crate::hub::Inner;
use crate::sync::{AtomicBool, Ordering};

/// Receivers of a message that may be answered.
const FEW: u64 = 2;

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
        let idle = !self.has_missed && self.work_on();
        let may_sleep = idle && self.may_sleep();
        let events = self.wait(if may_sleep { None } else { NOT_AT_ALL })?;
        self.handle(events);
        Ok(())
    }

    /// Works, waits for an answer to that where one may come, and does what the answer asks for. Then it
    /// sleeps, for who gets the answer may be waiting for this very processor. Returns whether nothing
    /// moves.
    fn work_on(&mut self) -> bool {
        let (idle, is_talk) = self.work_and_listen();
        // In assist mode whoever sends next does it, if the master sleeps.
        if idle && is_talk && !self.claims() && self.finds_more() {
            return self.work().1;
        }
        idle
    }

    /// Works. Returns whether nothing moves, and whether what was routed looks like a part of a
    /// conversation: a message or a few, to one or two. Who has more than that to do, or speaks to many, is
    /// not waiting for an answer, and needs the processor more.
    fn work_and_listen(&mut self) -> (bool, bool) {
        let before = self.router().stats.deliveries;
        let (routed, idle) = self.work();
        let (routed, heard) = (routed as u64, self.router().stats.deliveries - before);
        (idle, routed < STREAM && (1..=FEW * routed).contains(&heard))
    }

    /// Looks for more for a moment; true when something has come.
    fn finds_more(&mut self) -> bool {
        let mut linger = std::mem::take(&mut self.linger);
        let found = linger.wait_awake(|| self.router().step());
        self.linger = linger;
        found
    }
}

/// The host's signals are the host's threads' business.
fn block_signals() {
    use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::Hub;

    #[test]
    fn a_few_messages_to_one_or_two_may_be_answered_and_others_not() {
        let hub = Hub::builder().workers(4).create().expect("a hub");
        let mut master = hub.master().expect("a master");
        let mut cores: Vec<_> = (0..4).map(|w| hub.attach(w, 0).expect("a core")).collect();
        let rooms = [("one", 1), ("two", 2), ("three", 3), ("none", 0)];
        for (room, members) in rooms {
            for core in &mut cores[..members] {
                core.join_async(room).expect("asked");
            }
        }
        let (_, is_talk) = master.work_and_listen();
        assert!(!is_talk, "a join is no message");
        let mut is_answered = |room: &str, messages: usize| {
            for _ in 0..messages {
                cores[3].send(room, b"hello").expect("room");
            }
            let (idle, is_talk) = master.work_and_listen();
            assert!(idle);
            is_talk
        };
        assert!(is_answered("one", 1) && is_answered("one", 7) && is_answered("two", 1));
        assert!(!is_answered("three", 1), "to many");
        assert!(!is_answered("one", 8), "a stream");
        assert!(!is_answered("none", 1));
        assert!(!is_answered("one", 0));
    }
}
