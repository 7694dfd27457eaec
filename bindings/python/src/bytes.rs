//! Bytes that Python gave us: names and message bodies.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// `Py_buffer`. In the stable ABI since 3.11; 3.9 and 3.10 export the same functions with the
/// same struct.
#[repr(C)]
pub struct RawBuffer {
    pub buf: *mut c_void,
    pub obj: *mut ffi::PyObject,
    pub len: ffi::Py_ssize_t,
    pub itemsize: ffi::Py_ssize_t,
    pub readonly: c_int,
    pub ndim: c_int,
    pub format: *mut c_char,
    pub shape: *mut ffi::Py_ssize_t,
    pub strides: *mut ffi::Py_ssize_t,
    pub suboffsets: *mut ffi::Py_ssize_t,
    pub internal: *mut c_void,
}

/// `PyBUF_SIMPLE`: plain contiguous bytes.
const SIMPLE: c_int = 0;

unsafe extern "C" {
    fn PyObject_GetBuffer(obj: *mut ffi::PyObject, view: *mut RawBuffer, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut RawBuffer);
}

/// The bytes of an object with the buffer protocol, held until dropped.
struct Held(RawBuffer);

impl Held {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = MaybeUninit::uninit();
        // SAFETY: a live object and room for the struct; 0 says that it was filled in.
        let failed = unsafe { PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), SIMPLE) };
        if failed != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        // SAFETY: filled in, see above.
        Ok(Self(unsafe { view.assume_init() }))
    }

    fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `len` bytes at `buf` until released. Another thread could
        // write to them only while we hold no interpreter lock; we copy them out before that.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: filled in by PyObject_GetBuffer, released once, with the lock held: these
        // values live within one call from Python.
        unsafe { PyBuffer_Release(&raw mut self.0) };
    }
}

/// Calls `with` with the bytes of a message body: bytes, bytearray, memoryview, array ...
#[inline]
pub fn with_body<T>(
    body: &Bound<'_, PyAny>,
    with: impl FnOnce(&[u8]) -> PyResult<T>,
) -> PyResult<T> {
    if let Ok(bytes) = body.cast_exact::<PyBytes>() {
        return with(bytes.as_bytes());
    }
    with_buffer(body, with)
}

#[cold]
fn with_buffer<T>(body: &Bound<'_, PyAny>, with: impl FnOnce(&[u8]) -> PyResult<T>) -> PyResult<T> {
    if body.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err(
            "a message body is bytes-like, not str; encode it first",
        ));
    }
    let held = Held::of(body).map_err(|_| bad_body(body))?;
    with(held.bytes())
}

fn bad_body(body: &Bound<'_, PyAny>) -> PyErr {
    let found = type_name(body);
    PyTypeError::new_err(format!(
        "a message body is contiguous bytes-like (bytes, bytearray, memoryview), not {found}"
    ))
}

/// The bytes of a channel's name: str as UTF-8, or bytes.
pub fn name_bytes(name: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(text) = name.cast::<PyString>() {
        return encode(text);
    }
    if let Ok(bytes) = name.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    let found = type_name(name);
    Err(PyTypeError::new_err(format!(
        "a channel name is str or bytes, not {found}"
    )))
}

fn type_name(object: &Bound<'_, PyAny>) -> String {
    let name = object.get_type().name();
    name.map_or_else(|_| "this".into(), |name| name.to_string())
}

/// The last name given, and its bytes: most callers pass the same object again and again.
#[derive(Default)]
pub struct NameCache {
    object: Option<Py<PyAny>>,
    bytes: Vec<u8>,
}

impl NameCache {
    /// The bytes of `name`.
    #[inline]
    pub fn resolve(&mut self, name: &Bound<'_, PyAny>) -> PyResult<&[u8]> {
        let same = |object: &Py<PyAny>| object.as_ptr() == name.as_ptr();
        if !self.object.as_ref().is_some_and(same) {
            self.bytes = name_bytes(name)?;
            self.object = is_immutable(name).then(|| name.clone().unbind());
        }
        Ok(&self.bytes)
    }
}

/// A subclass of str or bytes may say something else next time; these cannot.
fn is_immutable(name: &Bound<'_, PyAny>) -> bool {
    name.is_exact_instance_of::<PyString>() || name.is_exact_instance_of::<PyBytes>()
}

/// A name as UTF-8; lone surrogates stand for bytes that are none, as in file names.
fn encode(text: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    // SAFETY: a live str, static texts; the result is new bytes or an exception.
    let bytes = unsafe {
        let (utf8, how) = (c"utf-8".as_ptr(), c"surrogateescape".as_ptr());
        let bytes = ffi::PyUnicode_AsEncodedString(text.as_ptr(), utf8, how);
        Bound::from_owned_ptr_or_err(text.py(), bytes)?
    };
    Ok(bytes.cast_into::<PyBytes>()?.as_bytes().to_vec())
}
