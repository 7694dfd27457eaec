//! The last error of the calling thread, and the texts of the codes.
//!
//! Recording keeps the error itself, a few words; the text is written when it is
//! asked for, into a buffer of the thread. Nothing here allocates.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_char, c_int};
use std::fmt::{self, Write};

use crate::error::{ChannelE, Failure};
use crate::guard::guard;

/// Longest text, with its NUL; a longer one is cut.
const TEXT_BYTES: usize = 512;

/// What a thread knows of its last error.
struct Last {
    /// Not yet written out. None: `text` is what there is.
    failure: Cell<Option<Failure>>,
    /// NUL-terminated, always: every writer leaves the last byte zero.
    text: UnsafeCell<[u8; TEXT_BYTES]>,
}

thread_local! {
    // const and without Drop: no lazy initialiser and no destructor to register,
    // so that the first error of a thread, too, allocates nothing.
    static LAST: Last = const {
        Last { failure: Cell::new(None), text: UnsafeCell::new([0; TEXT_BYTES]) }
    };
}

/// Keeps the error for `channel_last_error` and gives its code.
pub(crate) fn record(failure: Failure) -> c_int {
    LAST.with(|last| last.failure.set(Some(failure)));
    failure.code() as c_int
}

/// Keeps a text that does not outlive the call: a panic's.
pub(crate) fn record_text(code: ChannelE, text: &dyn fmt::Display) -> c_int {
    LAST.with(|last| {
        last.failure.set(None);
        // SAFETY: `text` is of this thread, and no reference to it exists: `write_text`
        // is the only one that makes one, and it is not re-entered.
        write_text(unsafe { &mut *last.text.get() }, text);
    });
    code as c_int
}

/// Writes as much of the text as fits, then a NUL.
fn write_text(buffer: &mut [u8; TEXT_BYTES], text: &dyn fmt::Display) {
    let mut cut = Cut { buffer, used: 0 };
    // An Err says only that the text was cut.
    let _ = write!(cut, "{text}");
    let used = cut.used;
    buffer[used] = 0;
}

/// A writer that keeps what fits and leaves room for the NUL.
struct Cut<'a> {
    buffer: &'a mut [u8; TEXT_BYTES],
    /// Bytes written, at most TEXT_BYTES - 1.
    used: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = TEXT_BYTES - 1 - self.used;
        let taken = s.len().min(room);
        self.buffer[self.used..self.used + taken].copy_from_slice(&s.as_bytes()[..taken]);
        self.used += taken;
        if taken < s.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// What exactly was wrong with the last call of this thread that failed: the
/// value and the limit, NUL-terminated, at most 511 bytes. Empty if none failed.
/// A call that succeeds does not change it.
///
/// Any thread, before and after fork. Never blocks. Not signal-safe. The text
/// belongs to the library and is valid until the next failing call of this
/// thread, or its end.
#[unsafe(no_mangle)]
pub extern "C" fn channel_last_error() -> *const c_char {
    LAST.with(|last| {
        if let Some(failure) = last.failure.take() {
            // A crate's Display that panics must not reach C: the text is then empty.
            guard(|| {
                // SAFETY: as in `record_text`.
                write_text(unsafe { &mut *last.text.get() }, &failure);
                Ok(0)
            });
        }
        last.text.get().cast_const().cast()
    })
}

/// A short text of a code that a call returned; "success" for zero and above,
/// and a text that says so for a number that is no code.
///
/// Any thread, before and after fork. Never blocks. Signal-safe. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn channel_strerror(code: c_int) -> *const c_char {
    let text = match ChannelE::from_code(code) {
        Some(e) => e.text(),
        None if code >= 0 => c"success",
        None => c"no such error code",
    };
    text.as_ptr()
}

/// The version of the library that is loaded, for example "0.1.0".
///
/// Any thread, before and after fork. Never blocks. Signal-safe. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn channel_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
