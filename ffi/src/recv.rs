//! Receiving.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use corecast::{Core, Message, RecvError};

use crate::cores::{ChannelCore, State, with_core};
use crate::duration;
use crate::error::Failure;
use crate::message::ChannelMessage;
use crate::sized;

/// Takes the next message of the queue. Returns 1 and fills `*message`, or 0 if
/// there is none: then the core is armed, and channel_fd becomes readable when
/// there is one. So: call it until it returns 0, then wait for channel_fd. Set
/// message->size to sizeof(channel_message_t) first.
///
/// If the queue was full and messages were lost, message->lost of the next one
/// says how many; channel_lost says so without waiting for a next one.
///
/// The thread that uses the core. Never blocks, but see channel_set_linger. Not
/// signal-safe. The struct is the caller's; for how long what it points at is valid,
/// see there. Errors: CHANNEL_E_NULL, CHANNEL_E_SIZE, CHANNEL_E_MASTER_GONE (and
/// nothing is left), CHANNEL_E_DAMAGED, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_recv(
    core: *mut ChannelCore,
    message: *mut ChannelMessage,
) -> c_int {
    // SAFETY: the caller passes NULL or a core, and NULL or a struct of the size it says.
    unsafe { with_core(core, |state| next(state, message, None)) }
}

/// Like channel_recv, but waits up to `timeout_ms` for a message; -1 waits as long
/// as it takes. For threads without an event loop: it sleeps on shared memory, with one
/// system call, and leaves channel_fd alone.
///
/// As channel_recv, but blocks as `timeout_ms` says. Errors: as channel_recv.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_recv_timeout(
    core: *mut ChannelCore,
    timeout_ms: c_int,
    message: *mut ChannelMessage,
) -> c_int {
    let end = Some(Instant::now() + duration(timeout_ms));
    // SAFETY: as in channel_recv.
    unsafe { with_core(core, |state| next(state, message, end)) }
}

/// Takes up to `len` messages with one call: channel_recv for many. Returns how many
/// it filled, or 0 if there is none: then the core is armed, as with channel_recv. So:
/// call it until it returns 0; fewer than `len` do not mean that no more are there. All
/// of them are valid as long as the message of one channel_recv would be. Set
/// messages[0].size to sizeof(channel_message_t) first; the others' is set for you.
///
/// messages[i].lost says how many were lost just before that one.
///
/// The thread that uses the core. Never blocks, but see channel_set_linger. Not
/// signal-safe. Errors: as channel_recv; nothing is taken then. With a `len` of 0 it
/// returns 0 and does not arm.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_recv_many(
    core: *mut ChannelCore,
    messages: *mut ChannelMessage,
    len: usize,
) -> c_int {
    // SAFETY: the caller passes NULL or a core, and NULL or `len` structs of the size it says.
    unsafe { with_core(core, |state| many(state, messages, len)) }
}

/// # Safety
/// `out` is NULL, or `len` structs of the size that the first one says, writable.
#[inline(always)]
unsafe fn many(state: &mut State, out: *mut ChannelMessage, len: usize) -> Result<c_int, Failure> {
    if len == 0 {
        return Ok(0);
    }
    // SAFETY: the caller's contract.
    let size = unsafe { sized::claimed(out) }?;
    let messages = loop {
        match state.core.recv_many() {
            Ok(Some(messages)) => break messages,
            Ok(None) => return Ok(0),
            Err(RecvError::Lagged(lost)) => state.lost += lost,
            Err(e) => return Err(e.into()),
        }
    };
    let (mut count, mut lost) = (0, std::mem::take(&mut state.lost));
    let mut at = out;
    for message in messages.take(len.min(c_int::MAX as usize)) {
        // SAFETY: fewer than `len` have been filled: the caller's contract.
        unsafe {
            (&raw mut (*at).size).write_unaligned(size);
            ChannelMessage::fill(at, &message, std::mem::take(&mut lost));
            at = at.byte_add(size);
        }
        count += 1;
    }
    Ok(count)
}

/// Receives until there is a message or none, by `end` if that is given; losses
/// are added up on the way.
///
/// # Safety
/// `out` is NULL, or a struct of the size it says, writable.
#[inline(always)] // with `end` known, half of it goes away
unsafe fn next(
    state: &mut State,
    out: *mut ChannelMessage,
    end: Option<Instant>,
) -> Result<c_int, Failure> {
    // Before anything is taken: a message must not be lost to a bad struct.
    // SAFETY: the caller's contract.
    unsafe { sized::check(out) }?;
    loop {
        match take(&mut state.core, end) {
            Ok(Some(message)) => {
                // SAFETY: the caller's contract.
                unsafe { ChannelMessage::fill(out, &message, state.lost) };
                state.lost = 0;
                return Ok(1);
            }
            Ok(None) => return Ok(0),
            Err(RecvError::Lagged(lost)) => state.lost += lost,
            Err(e) => return Err(e.into()),
        }
    }
}

#[inline(always)]
fn take(core: &mut Core, end: Option<Instant>) -> Result<Option<Message<'_>>, RecvError> {
    match end {
        None => core.recv(),
        Some(end) => core.recv_timeout(end.saturating_duration_since(Instant::now())),
    }
}

/// How many messages were lost to this core because its queue was full, as far as
/// channel_recv has come in its stream. When the core has emptied a full queue and
/// no message follows, channel_fd becomes readable all the same, and channel_recv
/// gives 0 and counts the losses.
///
/// The thread that uses the core. Never blocks. Not signal-safe. Errors:
/// CHANNEL_E_NULL, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_lost(core: *const ChannelCore) -> i64 {
    // SAFETY: the caller passes NULL or a core.
    unsafe {
        with_core(core, |state| {
            Ok(i64::try_from(state.core.lost()).unwrap_or(i64::MAX))
        })
    }
}

/// How long channel_recv, channel_recv_many and channel_recv_timeout may wait at an empty
/// queue for more before they arm the core and say that there is nothing, in microseconds;
/// 0 (never) at first, more than 10000 count as that. While they wait, others can use the
/// processor. Returns 0.
///
/// For threads that have nothing else to do: waking a sleeper on another processor costs
/// tens of microseconds, so that 50 to 200 save more than they cost while messages stream.
/// Where they come singly it costs little either: a wait in vain is not tried again before
/// twice as many sleeps, up to 64. Not for event loops, whose other events would wait as
/// long, nor for the thread that calls channel_hub_poll.
///
/// The thread that uses the core. Never blocks. Not signal-safe. Errors: CHANNEL_E_NULL,
/// and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_set_linger(core: *mut ChannelCore, limit_us: u32) -> c_int {
    let limit = Duration::from_micros(limit_us.into());
    // SAFETY: the caller passes NULL or a core.
    unsafe {
        with_core(core, |state| {
            state.core.set_linger(limit);
            Ok(0)
        })
    }
}

/// A file descriptor that becomes readable when a core that is armed gets
/// something: an eventfd. Register it edge-triggered (EPOLLIN | EPOLLET) and do not
/// read it; or, level-triggered, read 8 bytes from it before channel_recv.
///
/// The thread that uses the core. Never blocks. Not signal-safe. The descriptor
/// belongs to the library: do not close it; it is gone after channel_detach.
/// Errors: CHANNEL_E_NULL, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_fd(core: *const ChannelCore) -> c_int {
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, |state| Ok(state.core.as_fd().as_raw_fd())) }
}
