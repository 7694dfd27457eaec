//! Sending.

use std::ffi::{c_char, c_int, c_void};

use corecast::Loan;

use crate::cores::{ChannelCore, State, with_core};
use crate::duration;
use crate::error::{ChannelE, Failure};
use crate::message::{ChannelBody, ChannelRef, body_bytes, body_list, name_bytes, opened};

/// Sends a message to all cores that have joined the channel, the sender's own
/// included if it has.
///
/// The thread that uses the core. Never blocks, never allocates; wakes the master
/// if it sleeps. Not signal-safe. Name and body are read during the call only.
/// Errors: CHANNEL_E_NULL, CHANNEL_E_NAME_EMPTY, CHANNEL_E_NAME_TOO_LONG,
/// CHANNEL_E_TOO_LARGE, CHANNEL_E_FULL, CHANNEL_E_MASTER_GONE, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_send(
    core: *mut ChannelCore,
    name: *const c_char,
    body: *const c_void,
    body_len: usize,
) -> c_int {
    let send = |state: &mut State| {
        // SAFETY: NULL or what the caller says they are.
        let (name, body) = unsafe { (name_bytes(name)?, body_bytes(body, body_len)?) };
        Ok(state.sender()?.send(name, body).map(|()| 0)?)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, send) }
}

/// Like channel_send, but waits up to `timeout_ms` for room in the lane; -1 waits
/// as long as it takes.
///
/// As channel_send, but blocks as `timeout_ms` says. Errors: as channel_send, with
/// CHANNEL_E_TIMEOUT for CHANNEL_E_FULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_send_timeout(
    core: *mut ChannelCore,
    name: *const c_char,
    body: *const c_void,
    body_len: usize,
    timeout_ms: c_int,
) -> c_int {
    let send = |state: &mut State| {
        // SAFETY: NULL or what the caller says they are.
        let (name, body) = unsafe { (name_bytes(name)?, body_bytes(body, body_len)?) };
        Ok(state
            .sender()?
            .send_timeout(name, body, duration(timeout_ms))
            .map(|()| 0)?)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, send) }
}

/// Sends several messages to one channel, at less cost than one by one. Returns
/// how many were taken, from the first: fewer than `count` if the lane was full.
///
/// As channel_send; `bodies` is read during the call only. Errors: as channel_send;
/// then none was taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_send_many(
    core: *mut ChannelCore,
    name: *const c_char,
    bodies: *const ChannelBody,
    count: usize,
) -> c_int {
    let send = |state: &mut State| {
        // SAFETY: NULL or what the caller says they are.
        let (name, bodies) = unsafe { (name_bytes(name)?, body_list(bodies, count)?) };
        Ok(crate::count(state.sender()?.send_many(name, bodies)?))
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, send) }
}

/// Like channel_send, to a channel that this core has open: for hot paths.
///
/// As channel_send. Errors: as channel_send, and CHANNEL_E_STALE_CHANNEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_send_to(
    core: *mut ChannelCore,
    id: ChannelRef,
    body: *const c_void,
    body_len: usize,
) -> c_int {
    let send = |state: &mut State| {
        // SAFETY: NULL or what the caller says it is.
        let body = unsafe { body_bytes(body, body_len) }?;
        Ok(state.sender()?.send_to(opened(id), body).map(|()| 0)?)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, send) }
}

/// Like channel_send_timeout, to a channel that this core has open.
///
/// As channel_send_timeout. Errors: as there, and CHANNEL_E_STALE_CHANNEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_send_to_timeout(
    core: *mut ChannelCore,
    id: ChannelRef,
    body: *const c_void,
    body_len: usize,
    timeout_ms: c_int,
) -> c_int {
    let send = |state: &mut State| {
        // SAFETY: NULL or what the caller says it is.
        let body = unsafe { body_bytes(body, body_len) }?;
        Ok(state
            .sender()?
            .send_to_timeout(opened(id), body, duration(timeout_ms))
            .map(|()| 0)?)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, send) }
}

/// Like channel_send_many, to a channel that this core has open.
///
/// As channel_send_many. Errors: as there, and CHANNEL_E_STALE_CHANNEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_send_many_to(
    core: *mut ChannelCore,
    id: ChannelRef,
    bodies: *const ChannelBody,
    count: usize,
) -> c_int {
    let send = |state: &mut State| {
        // SAFETY: NULL or what the caller says they are.
        let bodies = unsafe { body_list(bodies, count) }?;
        Ok(crate::count(
            state.sender()?.send_many_to(opened(id), bodies)?,
        ))
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, send) }
}

/// Lends room for a message of `body_len` bytes, to be written in place and then sent
/// with channel_send_loan: nothing is copied from a buffer of the caller's. Waits up to
/// `timeout_ms` for room in the lane; 0 does not wait, -1 waits as long as it takes.
/// Until the loan is sent or dropped, the core can receive, but not send, join, leave
/// or lend again.
///
/// The thread that uses the core. Blocks as `timeout_ms` says. Not signal-safe. The name
/// is read during the call only. `*body` is written only on success; what it points at
/// (alignment 8) is the caller's until the loan is sent or dropped, and holds what
/// earlier messages have left there. Errors: as channel_send_timeout (CHANNEL_E_FULL
/// without a timeout), CHANNEL_E_LOAN_OUT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_loan(
    core: *mut ChannelCore,
    name: *const c_char,
    body_len: usize,
    timeout_ms: c_int,
    body: *mut *mut c_void,
) -> c_int {
    let lend = |state: &mut State| {
        // SAFETY: NULL or a C string, by the caller.
        let name = unsafe { name_bytes(name) }?;
        let body = body_out(body)?;
        let timeout = duration(timeout_ms);
        let loan = state.sender()?.loan_timeout(name, body_len, timeout)?;
        let raw = loan.into_raw();
        // SAFETY: not NULL, and the caller's to write.
        unsafe { body.write(raw.body().0.cast()) };
        state.loan = Some(raw);
        Ok(0)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, lend) }
}

/// Like channel_loan, to a channel that this core has open.
///
/// As channel_loan. Errors: as there, and CHANNEL_E_STALE_CHANNEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_loan_to(
    core: *mut ChannelCore,
    id: ChannelRef,
    body_len: usize,
    timeout_ms: c_int,
    body: *mut *mut c_void,
) -> c_int {
    let lend = |state: &mut State| {
        let body = body_out(body)?;
        let timeout = duration(timeout_ms);
        let core = state.sender()?;
        let raw = core
            .loan_to_timeout(opened(id), body_len, timeout)?
            .into_raw();
        // SAFETY: not NULL, and the caller's to write.
        unsafe { body.write(raw.body().0.cast()) };
        state.loan = Some(raw);
        Ok(0)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, lend) }
}

fn body_out(body: *mut *mut c_void) -> Result<*mut *mut c_void, Failure> {
    if body.is_null() {
        return Err(Failure::Null("body"));
    }
    Ok(body)
}

/// Sends the loan as it stands. Its place among the messages is that of this call.
///
/// The thread that uses the core. Never blocks, never allocates; wakes the master if it
/// sleeps. Not signal-safe. The body is no longer the caller's. Errors: CHANNEL_E_NULL,
/// CHANNEL_E_NO_LOAN, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_send_loan(core: *mut ChannelCore) -> c_int {
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, |state| with_loan(state, |loan| loan.send())) }
}

/// Gives the loan up: nothing is sent.
///
/// The thread that uses the core. Never blocks. Not signal-safe. The body is no longer
/// the caller's. Errors: CHANNEL_E_NULL, CHANNEL_E_NO_LOAN, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_loan_drop(core: *mut ChannelCore) -> c_int {
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, |state| with_loan(state, |loan| drop(loan))) }
}

fn with_loan(state: &mut State, act: impl FnOnce(Loan<'_>)) -> Result<c_int, Failure> {
    act(state.take_loan().ok_or(Failure::Code(ChannelE::NoLoan))?);
    Ok(0)
}
