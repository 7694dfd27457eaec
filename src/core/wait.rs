//! Waiting for the master: for room in the lane, or for an answer.
//!
//! The only place where a core sleeps on its own account. It sets the waiting bit in its lane
//! word, looks again, and sleeps on the event word of its mailbox; the router clears the bit and
//! bumps the word once it has moved the head or answered.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;

use super::Core;
use crate::error::SendError;
use crate::liveness::{has_ended, pidfd_open};
use crate::notify;
use crate::process::Life;
use crate::shared::MasterState;
use crate::sync::Ordering;

/// How often a waiting core makes sure that the master still lives.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// How long a core waits for room in its slab before it sends through the lane.
pub(super) const SLAB_WAIT: Duration = Duration::from_micros(50);

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Timeout,
    MasterGone,
    Detached,
}

/// What a core knows of the master's process.
#[derive(Debug, Default)]
pub(super) struct MasterWatch {
    life: Option<Life>,
    pidfd: Option<OwnedFd>,
}

impl MasterWatch {
    /// True unless that process is known to have ended.
    fn is_alive(&mut self, life: Life) -> bool {
        if life.pid() == std::process::id() {
            return true;
        }
        if Some(life) != self.life || self.pidfd.is_none() {
            (self.life, self.pidfd) = (Some(life), None);
            match pidfd_open(life.pid()) {
                Ok(_) if !life.has_started_as(life.pid()) => return false,
                Ok(fd) => self.pidfd = Some(fd),
                Err(e) => return e != nix::errno::Errno::ESRCH,
            }
        }
        !self.pidfd.as_ref().is_some_and(has_ended)
    }
}

impl Core {
    /// Looks at the master's process: a system call, for slow paths. True also while a successor
    /// is awaited.
    #[cold]
    pub(super) fn master_is_alive(&mut self) -> bool {
        if self.hub.view.config.await_successor {
            return true;
        }
        match MasterState::load(&self.header.master) {
            MasterState::None => true, // it may still start
            MasterState::Gone => false,
            MasterState::Running(life) => self.master.is_alive(life),
        }
    }

    /// Waits until `ready` gives something, at most `timeout`.
    pub(super) fn wait_for<T>(
        &mut self,
        timeout: Duration,
        mut ready: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, Ended> {
        let backoff = Backoff::new();
        while !backoff.is_completed() {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            backoff.snooze();
        }
        let start = Instant::now();
        loop {
            // SYNC(mailbox.event): read before the waiting bit is set; the futex compares with it.
            let seen = self.mailbox.event.load(Ordering::SeqCst);
            self.word.set_waiting();
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            let left = timeout.saturating_sub(start.elapsed());
            self.may_go_on(left)?;
            notify::futex_wait(&self.mailbox.get().event, seen, left.min(LOOK));
        }
    }

    fn may_go_on(&mut self, left: Duration) -> Result<(), Ended> {
        if self.hub.view.slot(self.slot).load() != self.holder {
            return Err(Ended::Detached);
        }
        if !self.master_is_alive() {
            return Err(Ended::MasterGone);
        }
        if left.is_zero() {
            return Err(Ended::Timeout);
        }
        Ok(())
    }

    /// Before a message of `len` bytes is sent by a call that may wait: if it belongs into the slab, and
    /// there is no room, waits a moment. Others use the processor meanwhile, receivers among them, and the
    /// router need not copy the message.
    #[inline]
    pub(super) fn wait_for_slab(&mut self, len: usize, timeout: Duration) {
        let bytes = len + self.stamp_bytes();
        if len < self.large || timeout < SLAB_WAIT || !self.slab.may_hold(bytes) {
            return;
        }
        if self.slab.find(bytes).is_some() {
            return;
        }
        let slab = &mut self.slab;
        self.slab_linger.wait(|| slab.find(bytes).is_some());
    }

    /// Tries `send` until the lane takes it, at most for `timeout`.
    pub(super) fn wait_for_room<T>(
        &mut self,
        timeout: Duration,
        mut send: impl FnMut(&mut Self) -> Result<T, SendError>,
    ) -> Result<T, SendError> {
        self.wait_for(timeout, |core| match send(core) {
            Err(SendError::Full) => None,
            result => Some(result),
        })?
    }

    /// Claims `size` bytes of the lane, waiting for room.
    pub(super) fn claim_waiting(
        &mut self,
        size: usize,
        timeout: Duration,
    ) -> Result<*mut u8, SendError> {
        self.wait_for(timeout, |core| core.claim(size))
            .map_err(SendError::from)
    }
}

impl From<Ended> for SendError {
    fn from(e: Ended) -> Self {
        match e {
            Ended::Timeout => Self::Timeout,
            Ended::MasterGone => Self::MasterGone,
            Ended::Detached => Self::Detached,
        }
    }
}
