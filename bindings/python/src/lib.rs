//! The compiled half of the Python package `corecast`: hub, core and messages over the Rust API.
//!
//! `python/corecast/__init__.py` is what users import; it adds the loops (asyncio, gevent) to the
//! classes here. One thread at a time uses a core: each call borrows it, and a second thread that
//! calls meanwhile gets `InUse`, never a torn state. Calls that wait release the interpreter lock.

mod bytes;
mod core;
mod errors;
mod hub;
mod loan;
mod message;

use pyo3::prelude::*;

#[pymodule]
mod _corecast {
    #[pymodule_export]
    use crate::core::{Channel, Core};
    #[pymodule_export]
    use crate::hub::Hub;
    #[pymodule_export]
    use crate::launch;
    #[pymodule_export]
    use crate::message::{Message, MessageView};
}

/// The program `corecast run`: the words of its command line, to its exit code. Takes over the
/// process's signals.
#[pyfunction]
fn launch(py: Python<'_>, words: Vec<std::ffi::OsString>) -> u8 {
    py.detach(|| corecast::launch::main(words))
}
