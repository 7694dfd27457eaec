//! The few functions of libzmq that the bench calls, as `zmq.h` declares them.

use std::ffi::{CStr, c_char, c_int, c_void};

pub const PUB_NODROP: c_int = 69;
pub const SUB: c_int = 2;
pub const XPUB: c_int = 9;
pub const XSUB: c_int = 10;
pub const SUBSCRIBE: c_int = 6;
pub const LINGER: c_int = 17;
pub const RECONNECT_IVL: c_int = 18;
pub const SNDHWM: c_int = 23;
pub const RCVHWM: c_int = 24;
pub const DONTWAIT: c_int = 1;
pub const SNDMORE: c_int = 2;

/// `zmq_msg_t`: 64 bytes, aligned as a pointer.
#[repr(C, align(8))]
pub struct Message(pub [u8; 64]);

unsafe extern "C" {
    fn zmq_errno() -> c_int;
    fn zmq_strerror(errno: c_int) -> *const c_char;
    pub fn zmq_ctx_new() -> *mut c_void;
    pub fn zmq_ctx_term(context: *mut c_void) -> c_int;
    pub fn zmq_socket(context: *mut c_void, kind: c_int) -> *mut c_void;
    pub fn zmq_close(socket: *mut c_void) -> c_int;
    pub fn zmq_setsockopt(
        socket: *mut c_void,
        option: c_int,
        value: *const c_void,
        len: usize,
    ) -> c_int;
    pub fn zmq_bind(socket: *mut c_void, address: *const c_char) -> c_int;
    pub fn zmq_connect(socket: *mut c_void, address: *const c_char) -> c_int;
    pub fn zmq_msg_init(message: *mut Message) -> c_int;
    pub fn zmq_msg_init_size(message: *mut Message, size: usize) -> c_int;
    pub fn zmq_msg_data(message: *mut Message) -> *mut c_void;
    pub fn zmq_msg_size(message: *const Message) -> usize;
    pub fn zmq_msg_send(message: *mut Message, socket: *mut c_void, flags: c_int) -> c_int;
    pub fn zmq_msg_recv(message: *mut Message, socket: *mut c_void, flags: c_int) -> c_int;
    pub fn zmq_msg_close(message: *mut Message) -> c_int;
    pub fn zmq_proxy(front: *mut c_void, back: *mut c_void, capture: *mut c_void) -> c_int;
}

/// The errno of the last call that failed on this thread.
pub fn errno() -> c_int {
    // SAFETY: may be called at any time.
    unsafe { zmq_errno() }
}

/// What libzmq says about the last call that failed on this thread.
pub fn error(what: &str) -> String {
    // SAFETY: a static text for any number.
    let text = unsafe { CStr::from_ptr(zmq_strerror(zmq_errno())) };
    format!("{what}: {}", text.to_string_lossy())
}
