//! A table of file descriptors of which a forked child keeps only some.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::sync::{AtomicU32, Ordering};

const CLOSED: u32 = u32::MAX;

/// Descriptors by index. Each process has its own copy; dropping it closes what is still open.
#[derive(Debug)]
pub(crate) struct FdTable(Vec<AtomicU32>);

impl FdTable {
    pub fn new(fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        let number = |fd: OwnedFd| AtomicU32::new(fd.into_raw_fd() as u32);
        Self(fds.into_iter().map(number).collect())
    }

    /// A table in which some are closed from the beginning.
    pub fn sparse(fds: impl IntoIterator<Item = Option<OwnedFd>>) -> Self {
        let number = |fd: Option<OwnedFd>| fd.map_or(CLOSED, |fd| fd.into_raw_fd() as u32);
        Self(
            fds.into_iter()
                .map(|fd| AtomicU32::new(number(fd)))
                .collect(),
        )
    }

    /// The descriptor at `index`, unless this process has closed it.
    pub fn get(&self, index: usize) -> Option<RawFd> {
        // Relaxed: a file descriptor number, changed only by this process before it attaches.
        match self.0[index].load(Ordering::Relaxed) {
            CLOSED => None,
            fd => Some(fd as RawFd),
        }
    }

    /// All descriptors; None if this process has closed one.
    pub fn all(&self) -> Option<Vec<RawFd>> {
        (0..self.0.len()).map(|index| self.get(index)).collect()
    }

    /// Gives all of them up without closing any: they are somebody else's after all.
    pub fn forget(&self) {
        // Relaxed: as in `get`.
        self.0
            .iter()
            .for_each(|fd| fd.store(CLOSED, Ordering::Relaxed));
    }

    /// Closes all but those that `keep` names.
    pub fn close_except(&self, keep: impl Fn(usize) -> bool) {
        for (index, fd) in self.0.iter().enumerate() {
            if keep(index) {
                continue;
            }
            // Relaxed: the swap makes sure that each is closed once.
            match fd.swap(CLOSED, Ordering::Relaxed) {
                CLOSED => {}
                // SAFETY: this table owns the descriptor and has just given it up.
                fd => drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            }
        }
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_except(|_| false);
    }
}
