//! The one guard that every export runs in: no panic reaches C.

use std::any::Any;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{ChannelE, Failure};
use crate::last;

/// Runs the body of an export. A failure or a panic becomes a code, and is kept
/// for `channel_last_error`. Costs nothing when neither happens.
///
/// A body that panics must leave what it worked on safe to drop; the handles
/// see to the rest, by being poisoned.
#[inline]
pub(crate) fn guard<T: From<c_int>>(body: impl FnOnce() -> Result<T, Failure>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(failure)) => T::from(last::record(failure)),
        Err(payload) => T::from(caught(payload)),
    }
}

/// Keeps the panic's own text.
#[cold]
fn caught(payload: Box<dyn Any + Send>) -> c_int {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    let code = last::record_text(ChannelE::Panic, &format_args!("corecast panicked: {text}"));
    // Dropping an unknown payload could panic again, here without a guard.
    std::mem::forget(payload);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn last_text() -> String {
        // SAFETY: NUL-terminated and of this thread until its next error.
        let text = unsafe { CStr::from_ptr(last::channel_last_error()) };
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_code_with_its_text() {
        let code: c_int = guard(|| panic!("index 7 of {}", 3));
        assert_eq!(code, ChannelE::Panic as c_int);
        assert_eq!(last_text(), "corecast panicked: index 7 of 3");
    }

    #[test]
    fn a_failure_becomes_its_code_and_a_success_keeps_the_old_text() {
        let code: c_int = guard(|| Err(Failure::Null("name")));
        assert_eq!(code, ChannelE::Null as c_int);
        assert_eq!(guard(|| Ok(41)), 41);
        assert_eq!(last_text(), "name is NULL");
        assert_eq!(last_text(), "name is NULL");
    }

    #[test]
    fn a_text_longer_than_the_buffer_is_cut_and_terminated() {
        last::record_text(ChannelE::Other, &"x".repeat(5000));
        assert_eq!(last_text(), "x".repeat(511));
    }
}
