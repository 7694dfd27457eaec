//! Which process is this? Asked on every call, so it must cost less than a system call.
//!
//! A page that the kernel wipes in the child of a fork holds the pid of the process that last
//! wrote it. A core remembers the pid it was attached by; in a forked child the page reads 0, or
//! the child's own pid once it has attached something itself.

use std::ptr::NonNull;

use crate::region::{OsError, Shared};
use crate::sync::{AtomicU32, Ordering};

/// The page. Where the kernel does not know `MADV_WIPEONFORK`, every look asks for the pid.
#[derive(Debug)]
pub(crate) struct ProcessMark {
    page: NonNull<AtomicU32>,
    wiped: bool,
}

// SAFETY: the page holds one atomic; unmapped only on drop.
unsafe impl Send for ProcessMark {}
// SAFETY: as above.
unsafe impl Sync for ProcessMark {}

const BYTES: usize = crate::layout::PAGE;

impl ProcessMark {
    pub fn create() -> Result<Self, OsError> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, prot, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(OsError::last("mmap"));
        }
        // SAFETY: our own mapping.
        let wiped = unsafe { libc::madvise(page, BYTES, libc::MADV_WIPEONFORK) } == 0;
        let page = NonNull::new(page.cast()).ok_or(OsError::last("mmap"))?;
        let mark = Self { page, wiped };
        mark.enter();
        Ok(mark)
    }

    /// Marks the page as this process's, and returns its pid.
    pub fn enter(&self) -> u32 {
        let pid = std::process::id();
        // Relaxed: all threads of a process store the same value. Without wiping the word stays
        // 0, so that nobody trusts it.
        let seen = if self.wiped { pid } else { 0 };
        self.word().store(seen, Ordering::Relaxed);
        pid
    }

    /// The word that [`Self::current`] looks at, for hot paths to look at themselves: while it
    /// reads as their pid, this is their process. Else they must ask `current`.
    pub fn word_ptr(&self) -> Shared<AtomicU32> {
        // SAFETY: an atomic in a mapping that lives as long as `self`; holders of the result
        // keep the hub that owns this mark.
        unsafe { Shared::from_ptr(self.page) }
    }

    /// The pid of this process, or 0 in a fresh child of a fork.
    #[inline]
    pub fn current(&self) -> u32 {
        if self.wiped {
            // Relaxed: set before any handle that compares with it was made.
            self.word().load(Ordering::Relaxed)
        } else {
            std::process::id()
        }
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped until drop, page aligned, zero is a valid atomic.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for ProcessMark {
    fn drop(&mut self) {
        // SAFETY: our own mapping, no longer used.
        unsafe { libc::munmap(self.page.as_ptr().cast(), BYTES) };
    }
}
