//! Liveness: which processes hold slots, and whether they still live.
//!
//! The evidence of a death is a pidfd, never a timeout and never a look at a pid: pids are
//! reused. Only where the kernel gives no pidfd does the host's word count alone. (And the end of a
//! guest's connection, see `guests`.)

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::guests::UNSEEN;
use crate::notify::wait_readable;

/// A pidfd for a process.
pub(crate) fn pidfd_open(pid: u32) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = nix::errno::Errno::result(fd)?;
    // SAFETY: a descriptor that was just opened.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// True once the process behind a pidfd has ended.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    wait_readable(pidfd.as_fd(), Duration::ZERO)
}

/// A process that holds at least one slot.
#[derive(Debug)]
struct Process {
    pid: u32,
    /// None where the kernel has no pidfds or descriptors ran out.
    pidfd: Option<OwnedFd>,
    slots: usize,
}

/// All processes that hold slots, by slot.
#[derive(Debug)]
pub(crate) struct Liveness {
    epoll: Arc<Epoll>,
    processes: Vec<Option<Process>>,
    /// Index into `processes` for each slot.
    by_slot: Vec<Option<usize>>,
    own_pid: u32,
}

impl Liveness {
    pub fn new(epoll: Arc<Epoll>, slots: usize) -> Self {
        Self {
            epoll,
            processes: Vec::new(),
            by_slot: vec![None; slots],
            own_pid: std::process::id(),
        }
    }

    /// The owner of `slot` is now the process `pid`, or nobody. Returns false when that process
    /// has ended already: reap the slot.
    pub fn set_owner(&mut self, slot: usize, pid: Option<u32>) -> bool {
        let current = self.by_slot[slot].and_then(|i| self.processes[i].as_ref());
        if current.map(|p| p.pid) == pid.filter(|&p| p != self.own_pid) && current.is_some() {
            return true;
        }
        self.release(slot);
        match pid {
            Some(pid) if pid != self.own_pid => self.watch(slot, pid),
            _ => true,
        }
    }

    /// True when the owner of `slot` is watched and has ended.
    pub fn is_over(&self, slot: usize) -> bool {
        let owner = self.by_slot[slot].and_then(|i| self.processes[i].as_ref());
        owner.is_some_and(Process::is_over)
    }

    /// Slots of processes that have ended.
    pub fn dead_slots(&self) -> Vec<usize> {
        self.slots_where(|p| p.pidfd.as_ref().is_some_and(has_ended))
    }

    /// Of `slots`, those whose process has ended; where it cannot be watched, the caller's word
    /// for it is taken.
    pub fn reported_dead(&self, slots: std::ops::Range<usize>) -> Vec<usize> {
        let is_dead = |p: &Process| match &p.pidfd {
            Some(pidfd) => has_ended(pidfd),
            None => p.pid != UNSEEN,
        };
        let mut dead = self.slots_where(is_dead);
        dead.retain(|slot| slots.contains(slot));
        dead
    }

    fn slots_where(&self, dead: impl Fn(&Process) -> bool) -> Vec<usize> {
        let dead: Vec<bool> = self
            .processes
            .iter()
            .map(|p| p.as_ref().is_some_and(&dead))
            .collect();
        let held = self.by_slot.iter().enumerate();
        held.filter(|(_, p)| p.is_some_and(|p| dead[p]))
            .map(|(slot, _)| slot)
            .collect()
    }

    fn watch(&mut self, slot: usize, pid: u32) -> bool {
        let known = self
            .processes
            .iter()
            .position(|p| p.as_ref().is_some_and(|p| p.pid == pid && !p.is_over()));
        let index = match known {
            Some(index) => index,
            None => match self.add(pid) {
                Some(index) => index,
                None => return false,
            },
        };
        if let Some(process) = &mut self.processes[index] {
            process.slots += 1;
        }
        self.by_slot[slot] = Some(index);
        true
    }

    /// Starts watching a process; None when it has ended.
    fn add(&mut self, pid: u32) -> Option<usize> {
        let pidfd = match pidfd_open(pid) {
            _ if pid == UNSEEN => None,
            Ok(fd) => Some(fd),
            Err(nix::errno::Errno::ESRCH) => return None,
            Err(_) => None,
        };
        if let Some(fd) = &pidfd {
            let event = EpollEvent::new(
                EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
                fd.as_raw_fd() as u64,
            );
            // Failing to add leaves the host's word and the next look as evidence.
            let _ = self.epoll.add(fd, event);
        }
        let process = Process {
            pid,
            pidfd,
            slots: 0,
        };
        let free = self.processes.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.processes.push(None);
            self.processes.len() - 1
        });
        self.processes[index] = Some(process);
        Some(index)
    }

    fn release(&mut self, slot: usize) {
        let Some(index) = self.by_slot[slot].take() else {
            return;
        };
        let Some(process) = &mut self.processes[index] else {
            return;
        };
        process.slots -= 1;
        if process.slots > 0 {
            return;
        }
        if let Some(fd) = &process.pidfd {
            // Explicitly: forked children hold the same open file, so closing would not do it.
            let _ = self.epoll.delete(fd);
        }
        self.processes[index] = None;
    }
}

impl Process {
    fn is_over(&self) -> bool {
        self.pidfd.as_ref().is_some_and(has_ended)
    }
}
