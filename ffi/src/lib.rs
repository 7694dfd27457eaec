//! The C ABI of corecast: `libcorecast` and `include/corecast.h`.
//!
//! A thin layer over the `corecast` crate. What it adds:
//!
//! - [`guard`]: every export runs in it, so that no panic reaches C;
//! - [`handle`]: opaque pointers that know whether they are in use, detached or
//!   poisoned, without a lock and without an allocation per call;
//! - [`error`]: the numbered codes, and [`last`]: the text of a thread's last one;
//! - [`sized`]: public structs that begin with their size and may grow.
//!
//! The comments of the exports are the C documentation: they land in the header.
//! The order of the modules below is the order of the header.

mod config;
mod cores;
mod guests;
mod hub;
mod last;
mod message;
mod recv;
mod send;

mod error;
mod guard;
mod handle;
mod sized;

use std::ffi::c_int;
use std::time::Duration;

/// Milliseconds of a C call; negative: as long as it takes.
fn duration(timeout_ms: c_int) -> Duration {
    // Longer than any process lives, and far from where adding it to a clock overflows.
    const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
    u64::try_from(timeout_ms).map_or(FOREVER, Duration::from_millis)
}

/// A count as a C int; above INT_MAX it is INT_MAX.
fn count(n: usize) -> c_int {
    n.try_into().unwrap_or(c_int::MAX)
}
