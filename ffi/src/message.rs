//! What crosses the boundary with a message: names, bodies, channel numbers.

use std::ffi::{CStr, c_char, c_int, c_void};

use corecast::{Channel, ChannelId, Message};

use crate::error::Failure;
use crate::sized::SizedStruct;

/// A channel, as a number: the same for all processes of the hub for as long as
/// anybody has it joined or open.
pub type ChannelRef = u64;

/// One body for channel_send_many.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChannelBody {
    /// The bytes; may be NULL if `len` is 0.
    pub data: *const c_void,
    /// How many.
    pub len: usize,
}

impl AsRef<[u8]> for ChannelBody {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `bodies` has checked that NULL comes with 0 only, and the caller
        // of channel_send_many vouches for the bytes during the call.
        unsafe { raw_bytes(self.data, self.len) }
    }
}

/// A received message. Set `size` once; channel_recv fills the rest. What it points
/// at belongs to the core, and is valid until the next channel_recv, channel_recv_many,
/// channel_recv_timeout, channel_leave, channel_leave_all or channel_detach of that
/// core. Sending it on as it lies there is fine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChannelMessage {
    /// sizeof(channel_message_t), set by the caller.
    pub size: usize,
    /// Name of the channel: `name_len` bytes, with no NUL at their end.
    pub name: *const c_char,
    /// Bytes of the name, 1 to 255.
    pub name_len: usize,
    /// The body: `body_len` bytes, at any alignment.
    pub body: *const c_void,
    /// Bytes of the body.
    pub body_len: usize,
    /// The channel, as channel_join gave it.
    pub channel: ChannelRef,
    /// Worker that sent it; the configured number of workers stands for the extra slots.
    pub worker: u32,
    /// Core of that worker that sent it.
    pub core: u32,
    /// Position in the order of the hub. It never decreases among messages of one sender; another
    /// sender that was held up may come late, with a smaller one. The order received is the order
    /// of the hub.
    /// Messages that one core sent in a row may share one.
    pub ticket: u64,
    /// Nanoseconds since 1970 (CLOCK_REALTIME), or 0 if the hub keeps none.
    pub timestamp: u64,
    /// Messages lost to this core just before this one, because its queue was full.
    pub lost: u64,
}

// SAFETY: repr(C), integers and pointers only, `size` first; in its first version.
unsafe impl SizedStruct for ChannelMessage {
    const NAME: &'static str = "channel_message_t";
    const FIRST: usize = 80;
}

const _: () = assert!(size_of::<ChannelMessage>() == 80);

impl ChannelMessage {
    /// Fills the caller's struct, field by field: a temporary one and a copy of it cost
    /// more than the rest of receiving.
    ///
    /// # Safety
    /// `out` has been checked, and is writable for as many bytes as its `size` says.
    #[inline]
    pub(crate) unsafe fn fill(out: *mut ChannelMessage, message: &Message<'_>, lost: u64) {
        // No caller has a shorter struct; a later field will have to look at `size`.
        const { assert!(Self::FIRST == size_of::<Self>()) };
        // SAFETY: the fields lie within FIRST bytes, which are writable (contract).
        unsafe {
            (&raw mut (*out).name).write_unaligned(message.name.as_ptr().cast());
            (&raw mut (*out).name_len).write_unaligned(message.name.len());
            (&raw mut (*out).body).write_unaligned(message.body.as_ptr().cast());
            (&raw mut (*out).body_len).write_unaligned(message.body.len());
            // In halves, low first (the crate is for little-endian machines): put together
            // by way of the stack, as the compiler does it, the number costs 4 ns.
            let channel = (&raw mut (*out).channel).cast::<u32>();
            channel.write_unaligned(message.channel.index);
            channel.add(1).write_unaligned(message.channel.generation);
            (&raw mut (*out).worker).write_unaligned(message.sender.worker);
            (&raw mut (*out).core).write_unaligned(message.sender.core);
            (&raw mut (*out).ticket).write_unaligned(message.ticket);
            (&raw mut (*out).timestamp).write_unaligned(message.timestamp);
            (&raw mut (*out).lost).write_unaligned(lost);
        }
    }
}

/// A channel's index and generation in one number; never 0, as generations begin at 1.
#[inline]
pub(crate) fn number(id: ChannelId) -> ChannelRef {
    u64::from(id.generation) << 32 | u64::from(id.index)
}

/// The bytes of a C buffer.
///
/// # Safety
/// `len` is 0, or `data` is readable for `len` bytes during `'a`.
#[inline]
unsafe fn raw_bytes<'a>(data: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts(data.cast(), len) }
}

/// A message body that came from C.
///
/// # Safety
/// `data` is NULL, or readable for `len` bytes during `'a`.
#[inline]
pub(crate) unsafe fn body_bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8], Failure> {
    if data.is_null() && len != 0 {
        return Err(Failure::Null("body"));
    }
    // SAFETY: not NULL if there is a byte; the caller's contract.
    Ok(unsafe { raw_bytes(data, len) })
}

/// A channel name that came from C, without its NUL.
///
/// # Safety
/// `name` is NULL, or NUL-terminated and unchanged during `'a`.
#[inline]
pub(crate) unsafe fn name_bytes<'a>(name: *const c_char) -> Result<&'a [u8], Failure> {
    if name.is_null() {
        return Err(Failure::Null("name"));
    }
    // SAFETY: not NULL; the caller's contract.
    Ok(unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// The bodies of channel_send_many, each checked; no more than an int can count.
///
/// # Safety
/// `bodies` is NULL, or readable for `len` elements during `'a`.
pub(crate) unsafe fn body_list<'a>(
    bodies: *const ChannelBody,
    len: usize,
) -> Result<&'a [ChannelBody], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if bodies.is_null() {
        return Err(Failure::Null("bodies"));
    }
    // SAFETY: not NULL; the caller's contract.
    let bodies = unsafe { std::slice::from_raw_parts(bodies, len.min(c_int::MAX as usize)) };
    if bodies
        .iter()
        .any(|body| body.data.is_null() && body.len != 0)
    {
        return Err(Failure::Null("body"));
    }
    Ok(bodies)
}

/// The handle that a number stands for; whether it is open is the core's to check.
#[inline]
pub(crate) fn opened(id: ChannelRef) -> Channel {
    Channel::from_id(ChannelId {
        index: id as u32,
        generation: (id >> 32) as u32,
    })
}
