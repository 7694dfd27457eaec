//! Sending.

use std::ffi::{c_char, c_int, c_void};

use crate::cores::{ChannelCore, State, with_core};
use crate::duration;
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
        Ok(state.core.send(name, body).map(|()| 0)?)
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
            .core
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
        Ok(crate::count(state.core.send_many(name, bodies)?))
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
        Ok(state.core.send_to(opened(id), body).map(|()| 0)?)
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
            .core
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
        Ok(crate::count(state.core.send_many_to(opened(id), bodies)?))
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, send) }
}
