//! Notification: the eventfds that wake cores and the master, and the futex under short waits.
//!
//! An eventfd is only ever written: its readers use edge-triggered polling, where each write is
//! an event of its own, so nobody needs to reset the counter.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::fds::FdTable;
use crate::region::OsError;
use crate::sync::{AtomicU32, Ordering};

/// A new eventfd, non-blocking and closed on exec.
pub(crate) fn eventfd() -> Result<OwnedFd, OsError> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(OwnedFd::from)
        .map_err(OsError::of("eventfd"))
}

/// Notifies whoever polls `fd`. Async-signal-safe, keeps errno.
#[inline]
pub(crate) fn ring(fd: RawFd) {
    let one = 1u64;
    // SAFETY: writes eight bytes from a live local; errno's location is this thread's own. A
    // failure needs no handling: EAGAIN means that the counter is at its maximum, so the fd is
    // readable already; a closed fd has nobody behind it.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(fd, (&raw const one).cast(), 8);
        *libc::__errno_location() = errno;
    }
}

/// Waits until `fd` is readable; false when the time is up or a signal came.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    // Round up: a wait must not end before its time.
    let millis = timeout.as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|n| n > 0)
}

/// Sleeps while `*word == expected`, at most `timeout`. May return early for no reason.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    // SAFETY: an atomic lives as long as the reference.
    unsafe { futex_wait_at(word.as_ptr(), expected, timeout) }
}

/// The same for a word that is part of something else.
///
/// # Safety
/// `word` is the address of an atomic's four bytes, which stay mapped.
pub(crate) unsafe fn futex_wait_at(word: *mut u32, expected: u32, timeout: Duration) {
    let spec = libc::timespec {
        tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: a valid futex word and timeout. Not FUTEX_PRIVATE: the waker is another process.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            libc::FUTEX_WAIT,
            expected,
            &raw const spec,
        );
    }
}

/// Wakes whoever sleeps on `word`. Keeps errno.
///
/// # Safety
/// `word` is the address of an atomic's four bytes, which stay mapped.
pub(crate) unsafe fn futex_wake_at(word: *mut u32) {
    // SAFETY: the caller's contract; errno's location is this thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX);
        *libc::__errno_location() = errno;
    }
}

/// Ends the wait of the core whose event word this is, if it waits.
pub(crate) fn wake(event: &AtomicU32) {
    // SYNC(mailbox.event): pairs with the core's load before it sets the waiting bit.
    event.fetch_add(1, Ordering::SeqCst);
    // SAFETY: an atomic lives as long as the reference.
    unsafe { futex_wake_at(event.as_ptr()) }
}

/// The eventfds of all cores. A forked worker closes those of other workers.
pub(crate) fn core_fds(slots: usize) -> Result<FdTable, OsError> {
    let fds: Result<Vec<_>, _> = (0..slots).map(|_| eventfd()).collect();
    Ok(FdTable::new(fds?))
}
