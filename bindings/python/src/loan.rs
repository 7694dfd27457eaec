//! The object behind a message in place: it exports the queue's own bytes as a buffer.
//!
//! PyO3 offers the buffer protocol to abi3 modules from Python 3.11 on only, because the limited
//! API has it since then. The slots work since 3.9, so this one type is made by hand.
//!
//! Invariant: bytes are exported only while the loan is not over, and the core ends a loan, that
//! is, lets the queue go on, only when nothing is exported.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::bytes::RawBuffer;

/// Bytes in the front buffer of a core's queue. Only touched with the interpreter lock held.
#[repr(C)]
pub struct Loan {
    head: ffi::PyObject,
    /// The core: while it lives, its hub keeps the bytes mapped. A strong reference.
    core: *mut ffi::PyObject,
    at: *const u8,
    len: usize,
    exports: usize,
    over: bool,
}

static TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Loan {
    /// A loan of `bytes`.
    ///
    /// # Safety
    /// The bytes stay as they are while `core` lives, until the loan is ended.
    pub unsafe fn make<'py>(core: &Bound<'py, PyAny>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let py = core.py();
        let class = TYPE.get_or_try_init(py, || make_type(py))?;
        // SAFETY: our own heap type, whose objects are `Loan`s; the fields behind the head, which
        // the allocator fills in, are written before anybody sees the object.
        unsafe {
            let class = class.as_ptr().cast::<ffi::PyTypeObject>();
            let object = ffi::PyType_GenericAlloc(class, 0);
            let object = Bound::from_owned_ptr_or_err(py, object)?;
            let loan = object.as_ptr().cast::<Self>();
            (&raw mut (*loan).core).write(core.clone().into_ptr());
            (&raw mut (*loan).at).write(bytes.as_ptr());
            (&raw mut (*loan).len).write(bytes.len());
            Ok(object)
        }
    }

    /// The loan in an object made by [`Self::make`].
    pub fn of<'a>(object: &'a Bound<'_, PyAny>) -> &'a Self {
        debug_assert!(
            TYPE.get(object.py())
                .is_some_and(|class| object.get_type().is(class))
        );
        // SAFETY: only objects made by `new` are passed here; the lock is held.
        unsafe { &*object.as_ptr().cast::<Self>() }
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Ends the loan, unless its bytes are exported.
    pub fn end(object: &Bound<'_, PyAny>) -> PyResult<()> {
        if Self::of(object).exports > 0 {
            return Err(PyBufferError::new_err(
                "the last message is still in use: release its memoryview before you receive",
            ));
        }
        // SAFETY: as in `of`; no reference to the fields is alive.
        unsafe { (&raw mut (*object.as_ptr().cast::<Self>()).over).write(true) };
        Ok(())
    }
}

const GETBUFFER: c_int = 1;
const RELEASEBUFFER: c_int = 2;

fn make_type(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let slot = |slot, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(GETBUFFER, get_buffer as *mut c_void),
        slot(RELEASEBUFFER, release_buffer as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(0, ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"corecast._corecast.Loan".as_ptr(),
        basicsize: size_of::<Loan>() as c_int,
        itemsize: 0,
        flags: ffi::Py_TPFLAGS_DEFAULT as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: a complete spec that ends with a zero slot; Python copies what it keeps, and the
    // name is static.
    unsafe {
        let class = ffi::PyType_FromSpec(&raw mut spec);
        Ok(Bound::from_owned_ptr_or_err(py, class)?.unbind())
    }
}

/// # Safety
/// Called by Python through the type, with its lock held: `object` is a Loan.
unsafe extern "C" fn get_buffer(
    object: *mut ffi::PyObject,
    view: *mut RawBuffer,
    flags: c_int,
) -> c_int {
    const WRITABLE: c_int = 1;
    const FORMAT: c_int = 4;
    const ND: c_int = 8;
    const STRIDES: c_int = 0x10 | ND;
    let loan = object.cast::<Loan>();
    // SAFETY: the caller's contract, and `view` has room for the struct.
    unsafe {
        (*view).obj = ptr::null_mut();
        if (*loan).over || flags & WRITABLE != 0 {
            let text = c"the message is read-only, and valid until the next receive";
            ffi::PyErr_SetString(ffi::PyExc_BufferError, text.as_ptr());
            return -1;
        }
        (*loan).exports += 1;
        (*view).buf = (*loan).at.cast_mut().cast();
        (*view).len = (*loan).len as ffi::Py_ssize_t;
        (*view).itemsize = 1;
        (*view).readonly = 1;
        (*view).ndim = 1;
        let want = |bits, value: *mut _| {
            if flags & bits == bits {
                value
            } else {
                ptr::null_mut()
            }
        };
        (*view).format = want(FORMAT, c"B".as_ptr().cast_mut().cast::<c_void>()).cast();
        (*view).shape = want(ND, (&raw mut (*view).len).cast()).cast();
        (*view).strides = want(STRIDES, (&raw mut (*view).itemsize).cast()).cast();
        (*view).suboffsets = ptr::null_mut();
        (*view).internal = ptr::null_mut();
        ffi::Py_IncRef(object);
        (*view).obj = object;
    }
    0
}

/// # Safety
/// As for [`get_buffer`].
unsafe extern "C" fn release_buffer(object: *mut ffi::PyObject, _view: *mut RawBuffer) {
    // SAFETY: the caller's contract.
    unsafe { (*object.cast::<Loan>()).exports -= 1 };
}

/// # Safety
/// As for [`get_buffer`]; the last reference has gone, so nothing is exported.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the caller's contract; `core` is our own reference, or NULL if making the loan
    // failed half-way; objects of a heap type hold a reference to it.
    unsafe {
        ffi::Py_DecRef((*object.cast::<Loan>()).core);
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DecRef(class.cast());
    }
}
