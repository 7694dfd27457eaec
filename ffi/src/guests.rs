//! Hubs for processes that did not inherit them: a Unix socket.

use std::ffi::{CStr, c_char, c_int};

use corecast::Hub;

use crate::error::{ChannelE, Failure};
use crate::guard::guard;
use crate::hub::{ChannelHub, with_hub};
use crate::{count, duration};

/// Bytes that are enough for the name of any socket, with its NUL.
pub const CHANNEL_SOCKET_ROOM: usize = 108;

/// A string of C's, or None for NULL.
///
/// # Safety
/// `text` is NULL or ends with a NUL and outlives the result.
unsafe fn text<'a>(text: *const c_char) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL: a string that ends with NUL (contract).
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map(Some)
        .map_err(|_| ChannelE::SocketName.into())
}

/// Lets processes that do not inherit the hub be workers of it: for servers that spawn
/// or exec theirs. Opens a Unix socket at which they call channel_hub_connect. `name`
/// is @ and a name in the kernel's abstract namespace, or a path; NULL makes one up that
/// nobody can guess. It is written to `text`, unless that is NULL, with a NUL; `room` is
/// what `text` has, at least CHANNEL_SOCKET_ROOM. Returns its length without the NUL.
///
/// The master serves the socket. Each process that comes gets a seat to its end: a
/// worker from `first_worker` on (those before are for forked children), or, when these
/// are taken, an extra slot. It must be of the same user, or root's. The socket closes
/// with the hub in this process.
///
/// Any thread, in the process that made the hub or the master's. Does not block. Not
/// signal-safe. Errors: CHANNEL_E_SOCKET_NAME, CHANNEL_E_SOCKET_TAKEN,
/// CHANNEL_E_LISTENING, CHANNEL_E_TOO_LARGE (`room`), CHANNEL_E_WORKER_RANGE (no seats
/// are left), CHANNEL_E_WRONG_PROCESS, CHANNEL_E_OS, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_listen(
    hub: *mut ChannelHub,
    name: *const c_char,
    first_worker: u32,
    text: *mut c_char,
    room: usize,
) -> c_int {
    let listen = |hub: &Hub| {
        if !text.is_null() && room < CHANNEL_SOCKET_ROOM {
            return Err(ChannelE::TooLarge.into());
        }
        // SAFETY: the caller passes NULL or a string.
        let name = hub.listen(unsafe { self::text(name) }?, first_worker)?;
        if !text.is_null() {
            // SAFETY: `room` bytes are the caller's to write; a socket's name and a NUL fit.
            unsafe {
                text.cast::<u8>()
                    .copy_from_nonoverlapping(name.as_ptr(), name.len());
                text.add(name.len()).write(0);
            }
        }
        Ok(count(name.len()))
    };
    // SAFETY: the caller passes NULL or a hub.
    unsafe { with_hub(hub, listen) }
}

/// Becomes a worker of the hub that listens at the socket `name`; NULL: the one that the
/// environment names in CORECAST_SOCKET. What comes through the socket is checked. Cores
/// are attached with CHANNEL_ANY as worker and core, as many as a worker of the hub has.
/// The seat is free again when this process ends, however, or when the hub is destroyed
/// and the last of its cores detached here. A child that this process forks connects for
/// itself; the parent's hub gives it CHANNEL_E_WRONG_PROCESS.
///
/// Any thread. Waits for the hub's master, at most `timeout_ms`; -1 waits as long as it
/// takes. Not signal-safe. `*out` is written only on success; the caller frees it with
/// channel_hub_destroy. Errors: CHANNEL_E_NULL, CHANNEL_E_SOCKET_NAME, CHANNEL_E_NO_HUB,
/// CHANNEL_E_NOT_ALLOWED, CHANNEL_E_NO_FREE_SLOT, CHANNEL_E_TIMEOUT, CHANNEL_E_VERSION,
/// CHANNEL_E_OS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_hub_connect(
    name: *const c_char,
    timeout_ms: c_int,
    out: *mut *mut ChannelHub,
) -> c_int {
    guard(|| {
        if out.is_null() {
            return Err(Failure::Null("out"));
        }
        let timeout = duration(timeout_ms);
        // SAFETY: the caller passes NULL or a string.
        let hub = match unsafe { text(name) }? {
            Some(name) => Hub::connect(name, timeout)?,
            None => Hub::connect_from_environment(timeout)?,
        };
        let hub = ChannelHub::new(hub);
        // SAFETY: not NULL, and the caller's to write.
        unsafe { out.write(hub) };
        Ok(0)
    })
}
