//! Received messages: by value, or in place until the next receive.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::errors::raise;
use crate::loan::Loan;

/// What is known of a message besides its body.
pub struct Facts {
    /// The channel's name.
    pub channel: Py<PyString>,
    /// Worker and core index of the sender.
    pub sender: (u32, u32),
    /// Its place in the hub's order.
    pub ticket: u64,
    /// Nanoseconds since the epoch, 0 when off.
    pub timestamp: u64,
    /// Messages lost to this core just before this one.
    pub lost: u64,
}

/// A received message. It owns its body and stays valid for ever.
#[pyclass(frozen, module = "corecast")]
pub struct Message {
    /// What was sent.
    #[pyo3(get)]
    pub body: Py<PyBytes>,
    pub facts: Facts,
}

/// A message in place, in the core's queue: nothing is copied. Good until the next call that
/// receives; then `body` raises `StaleMessage`.
#[pyclass(frozen, module = "corecast")]
pub struct MessageView {
    pub loan: Py<PyAny>,
    pub facts: Facts,
}

macro_rules! getters {
    ($type:ident { $($rest:item)* }) => {
        #[pymethods]
        impl $type {
            /// The channel's name.
            #[getter]
            fn channel<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
                self.facts.channel.bind(py).clone()
            }

            /// Who sent it: worker and core index.
            #[getter]
            fn sender(&self) -> (u32, u32) {
                self.facts.sender
            }

            /// Its place in the hub's order.
            #[getter]
            fn ticket(&self) -> u64 {
                self.facts.ticket
            }

            /// Nanoseconds since the epoch, 0 when timestamps are off.
            #[getter]
            fn timestamp(&self) -> u64 {
                self.facts.timestamp
            }

            /// Messages lost to this core just before this one: its queue was full.
            #[getter]
            fn lost(&self) -> u64 {
                self.facts.lost
            }

            $($rest)*
        }
    };
}

getters! { Message {
    fn __repr__(&self, py: Python<'_>) -> String {
        let (channel, sender) = (self.facts.channel.bind(py), self.facts.sender);
        let body = self.body.bind(py).repr().map_or_else(|_| "?".into(), |b| b.to_string());
        format!("Message(channel={channel:?}, body={body}, sender={sender:?})")
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.body.bind(py).as_bytes().len()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.body.bind(py).clone()
    }
} }

getters! { MessageView {
    /// A read-only memoryview of the body in the queue. While one exists, the core refuses to
    /// receive (`BufferError`); release it, or let it go out of scope.
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let loan = self.loan.bind(py);
        if Loan::of(loan).is_over() {
            let text = "the message was valid until the next receive; use recv() to keep messages";
            return Err(raise(py, "StaleMessage", text));
        }
        // SAFETY: a live object with the buffer protocol; the result is new, or an exception.
        unsafe {
            let view = pyo3::ffi::PyMemoryView_FromObject(loan.as_ptr());
            Bound::from_owned_ptr_or_err(py, view)
        }
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        Loan::of(self.loan.bind(py)).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (channel, sender) = (self.facts.channel.bind(py), self.facts.sender);
        format!("MessageView(channel={channel:?}, sender={sender:?})")
    }
} }
