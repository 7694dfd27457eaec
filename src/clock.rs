//! Clocks, read through the vDSO: no system call.

/// `CLOCK_REALTIME`, ns since the epoch: what dates messages.
pub(crate) fn realtime_nanos() -> u64 {
    nanos(libc::CLOCK_REALTIME)
}

/// `CLOCK_MONOTONIC`, ns.
pub(crate) fn monotonic_nanos() -> u64 {
    nanos(libc::CLOCK_MONOTONIC)
}

#[inline]
fn nanos(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes a live local; cannot fail for the clocks above.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
