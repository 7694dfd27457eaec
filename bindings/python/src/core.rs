//! The core class: every call borrows it, so that one thread at a time is in it.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use corecast::{ChannelId, JoinTicket, RecvError, SendError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::bytes::{NameCache, name_bytes, with_body};
use crate::errors::{OrRaise, raise};
use crate::hub::Hub;
use crate::loan::Loan;
use crate::message::{Facts, Message, MessageView};

/// How long a wait goes on before signals (Ctrl-C) are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A resolved channel, from `Core.open`; `Core.send` takes it in place of a name.
#[pyclass(frozen, module = "corecast")]
pub struct Channel {
    inner: corecast::Channel,
    /// The channel's name.
    #[pyo3(get)]
    name: Py<PyAny>,
}

#[pymethods]
impl Channel {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Channel({})", self.name.bind(py).repr()?))
    }
}

/// An attached core: one thread, greenlet or loop uses it at a time.
#[pyclass(subclass, module = "corecast._corecast")]
pub struct Core {
    core: Exclusive,
    names: NameCache,
    heard: Heard,
    /// The message in place that was given out last.
    loan: Option<Py<PyAny>>,
    /// Losses met that no message has told of yet.
    lost: u64,
}

/// The attached core until it is closed; reached through `&mut` only.
struct Exclusive(Option<corecast::Core>);

// SAFETY: there is no way to the core through `&Exclusive`, so sharing one shares nothing.
unsafe impl Sync for Exclusive {}

impl Exclusive {
    #[inline]
    fn get(&mut self, py: Python<'_>) -> PyResult<&mut corecast::Core> {
        self.0.as_mut().ok_or_else(|| closed(py))
    }
}

/// The name of the channel last received from.
#[derive(Default)]
struct Heard(Option<(ChannelId, Py<PyString>)>);

impl Heard {
    #[inline]
    fn name(&mut self, py: Python<'_>, id: ChannelId, name: &[u8]) -> PyResult<Py<PyString>> {
        match &self.0 {
            Some((known, text)) if *known == id => Ok(text.clone_ref(py)),
            _ => {
                let text = decode(py, name)?;
                self.0 = Some((id, text.clone_ref(py)));
                Ok(text)
            }
        }
    }
}

/// A name as text; what is no UTF-8 survives the way there and back.
fn decode(py: Python<'_>, name: &[u8]) -> PyResult<Py<PyString>> {
    // SAFETY: a slice, and a static text; the result is a new str or an exception.
    let text = unsafe {
        let text = pyo3::ffi::PyUnicode_DecodeUTF8(
            name.as_ptr().cast(),
            name.len() as pyo3::ffi::Py_ssize_t,
            c"surrogateescape".as_ptr(),
        );
        Bound::from_owned_ptr_or_err(py, text)?
    };
    Ok(text.cast_into::<PyString>()?.unbind())
}

fn facts(
    py: Python<'_>,
    heard: &mut Heard,
    m: &corecast::Message<'_>,
    lost: u64,
) -> PyResult<Facts> {
    Ok(Facts {
        channel: heard.name(py, m.channel, m.name)?,
        sender: (m.sender.worker, m.sender.core),
        ticket: m.ticket,
        timestamp: m.timestamp,
        lost,
    })
}

/// The core in its object, or `InUse`.
#[inline]
fn borrow<'py>(slf: &Bound<'py, Core>) -> PyResult<PyRefMut<'py, Core>> {
    slf.try_borrow_mut().map_err(|_| {
        let text = "another thread is in a call of this core; attach one for each thread";
        raise(slf.py(), "InUse", text)
    })
}

#[cold]
fn closed(py: Python<'_>) -> PyErr {
    raise(py, "Detached", "this core is closed")
}

/// Seconds from Python; None for ever.
fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else {
        return Ok(None);
    };
    // Not `min`, which would make a number of what is none.
    let wait = if seconds > 1e9 { 1e9 } else { seconds };
    let wait = Duration::try_from_secs_f64(wait).map_err(|_| {
        PyValueError::new_err(format!(
            "timeout is {seconds}; it must be 0 or more seconds"
        ))
    })?;
    Ok(Some(Instant::now() + wait))
}

fn left(deadline: Option<Instant>) -> Duration {
    deadline.map_or(LOOK, |d| {
        d.saturating_duration_since(Instant::now()).min(LOOK)
    })
}

/// Where a message goes.
enum To<'a> {
    Name(&'a [u8]),
    Channel(corecast::Channel),
}

impl To<'_> {
    #[inline]
    fn send(&self, core: &mut corecast::Core, body: &[u8]) -> Result<(), SendError> {
        match self {
            To::Name(name) => core.send(name, body),
            To::Channel(channel) => core.send_to(*channel, body),
        }
    }

    /// Sends, waiting for room with the interpreter lock released, until the deadline.
    fn send_waiting(
        &self,
        py: Python<'_>,
        core: &mut corecast::Core,
        body: &[u8],
        until: Option<Instant>,
    ) -> PyResult<()> {
        let body = body.to_vec(); // others may write to the original meanwhile
        loop {
            let wait = left(until);
            let result = py.detach(|| match self {
                To::Name(name) => core.send_timeout(name, &body, wait),
                To::Channel(channel) => core.send_to_timeout(*channel, &body, wait),
            });
            match result {
                Err(SendError::Timeout) if !left(until).is_zero() => py.check_signals()?,
                other => return other.or_raise(py),
            }
        }
    }
}

impl Core {
    #[inline]
    fn inner(&mut self, py: Python<'_>) -> PyResult<&mut corecast::Core> {
        self.core.get(py)
    }

    /// The core, and where a name or handle from Python leads.
    #[inline]
    fn to<'a>(
        &'a mut self,
        channel: &Bound<'_, PyAny>,
    ) -> PyResult<(&'a mut corecast::Core, To<'a>)> {
        let core = self.core.get(channel.py())?;
        if let Ok(handle) = channel.cast_exact::<Channel>() {
            return Ok((core, To::Channel(handle.get().inner)));
        }
        Ok((core, To::Name(self.names.resolve(channel)?)))
    }

    /// The message in place given out last is over from here on.
    #[inline]
    fn end_loan(&mut self, py: Python<'_>) -> PyResult<()> {
        if let Some(loan) = &self.loan {
            Loan::end(loan.bind(py))?;
            self.loan = None;
        }
        Ok(())
    }

    /// The next message through `make`; None if there is none before the deadline.
    #[inline]
    fn receive<T>(
        &mut self,
        py: Python<'_>,
        until: Until,
        mut make: impl FnMut(&mut Heard, &corecast::Message<'_>, u64) -> PyResult<T>,
    ) -> PyResult<Option<T>> {
        self.end_loan(py)?;
        let core = self.core.get(py)?;
        let mut wait = Duration::ZERO;
        loop {
            let found = match wait.is_zero() {
                true => core.recv(),
                false => py.detach(|| core.recv_timeout(wait)),
            };
            match found {
                Ok(Some(message)) => {
                    let lost = std::mem::take(&mut self.lost);
                    return make(&mut self.heard, &message, lost).map(Some);
                }
                Ok(None) => wait = until.left(),
                Err(RecvError::Lagged(n)) => {
                    self.lost += n;
                    continue;
                }
                Err(e) => return Err(e).or_raise(py),
            }
            if wait.is_zero() {
                return Ok(None);
            }
            py.check_signals()?;
        }
    }
}

/// How long to wait for a message.
#[derive(Clone, Copy)]
enum Until {
    Now,
    Deadline(Option<Instant>),
}

impl Until {
    #[inline]
    fn new(timeout: Option<f64>) -> PyResult<Self> {
        match timeout {
            Some(0.0) => Ok(Self::Now),
            other => deadline(other).map(Self::Deadline),
        }
    }

    fn left(self) -> Duration {
        match self {
            Self::Now => Duration::ZERO,
            Self::Deadline(until) => left(until),
        }
    }
}

#[pymethods]
impl Core {
    /// Attaches: to core `core` of worker `worker`, or, without a worker, to any free slot.
    #[new]
    #[pyo3(signature = (hub, worker=None, core=0))]
    fn new(py: Python<'_>, hub: &Bound<'_, Hub>, worker: Option<u32>, core: u32) -> PyResult<Self> {
        let hub = hub.get().shared(py)?;
        let attached = py.detach(|| match worker {
            Some(worker) => hub.attach(worker, core),
            None => hub.attach_any(),
        });
        Ok(Self {
            core: Exclusive(Some(attached.or_raise(py)?)),
            names: NameCache::default(),
            heard: Heard::default(),
            loan: None,
            lost: 0,
        })
    }

    /// Sends `body` to all who have joined `channel` (a name or a handle). Waits up to `timeout`
    /// seconds for room in the lane; None waits as long as it takes.
    #[pyo3(signature = (channel, body, timeout=Some(0.0)))]
    fn send(
        slf: &Bound<'_, Self>,
        channel: &Bound<'_, PyAny>,
        body: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let py = slf.py();
        let mut this = borrow(slf)?;
        let (core, to) = this.to(channel)?;
        with_body(body, |body| match to.send(core, body) {
            Ok(()) => Ok(()),
            Err(SendError::Full) if timeout != Some(0.0) => {
                to.send_waiting(py, core, body, deadline(timeout)?)
            }
            Err(e) => Err(e).or_raise(py),
        })
    }

    /// Sends several messages to one channel. Returns how many were taken: fewer than given when
    /// the lane got full.
    fn send_many(
        slf: &Bound<'_, Self>,
        channel: &Bound<'_, PyAny>,
        bodies: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let py = slf.py();
        let mut this = borrow(slf)?;
        let (core, to) = this.to(channel)?;
        let bodies: Vec<Vec<u8>> = bodies
            .try_iter()?
            .map(|body| with_body(&body?, |bytes| Ok(bytes.to_vec())))
            .collect::<PyResult<_>>()?;
        let taken = match to {
            To::Name(name) => core.send_many(name, &bodies),
            To::Channel(channel) => core.send_many_to(channel, &bodies),
        };
        taken.or_raise(py)
    }

    /// The next message, or None if none comes within `timeout` seconds (0: do not wait; None: as
    /// long as it takes). When it returned None, the descriptor tells of the next message.
    #[pyo3(signature = (timeout=Some(0.0)))]
    fn recv(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<Message>> {
        let py = slf.py();
        borrow(slf)?.receive(py, Until::new(timeout)?, |heard, message, lost| {
            Ok(Message {
                body: PyBytes::new(py, message.body).unbind(),
                facts: facts(py, heard, message, lost)?,
            })
        })
    }

    /// Like `recv`, without copying the body: it is valid until the next call that receives.
    #[pyo3(signature = (timeout=Some(0.0)))]
    fn recv_view(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<MessageView>> {
        let py = slf.py();
        let mut this = borrow(slf)?;
        let view = this.receive(py, Until::new(timeout)?, |heard, message, lost| {
            // SAFETY: the body lies in the front of the queue, which stays as it is until this
            // core receives again or detaches; both end the loan first. The core's hub keeps it
            // mapped.
            let loan = unsafe { Loan::make(slf.as_any(), message.body)? };
            Ok(MessageView {
                loan: loan.unbind(),
                facts: facts(py, heard, message, lost)?,
            })
        })?;
        this.loan = view.as_ref().map(|view| view.loan.clone_ref(py));
        Ok(view)
    }

    /// Joins a channel and waits for the master's answer: what is sent from now on will come.
    fn join(slf: &Bound<'_, Self>, channel: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, name) = (slf.py(), name_bytes(channel)?);
        let mut this = borrow(slf)?;
        let core = this.inner(py)?;
        py.detach(|| core.join(&name)).or_raise(py)?;
        Ok(())
    }

    /// Asks to join and does not wait; the descriptor tells when `join_result` has the answer.
    fn join_async(slf: &Bound<'_, Self>, channel: &Bound<'_, PyAny>) -> PyResult<u64> {
        let (py, name) = (slf.py(), name_bytes(channel)?);
        let ticket = borrow(slf)?.inner(py)?.join_async(&name).or_raise(py)?;
        Ok(ticket.number())
    }

    /// True once the join has been answered, False while not. Raises why it was refused.
    fn join_result(slf: &Bound<'_, Self>, ticket: u64) -> PyResult<bool> {
        let py = slf.py();
        let ticket = JoinTicket::from_number(ticket);
        match borrow(slf)?.inner(py)?.join_result(ticket) {
            None => Ok(false),
            Some(result) => result.or_raise(py).map(|_| true),
        }
    }

    /// Leaves a channel: nothing of it is received from now on.
    fn leave(slf: &Bound<'_, Self>, channel: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, name) = (slf.py(), name_bytes(channel)?);
        let mut this = borrow(slf)?;
        let core = this.inner(py)?;
        py.detach(|| core.leave(&name)).or_raise(py)
    }

    /// Leaves all channels.
    fn leave_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut this = borrow(slf)?;
        let core = this.inner(py)?;
        py.detach(|| core.leave_all()).or_raise(py)
    }

    /// Resolves a name, for sending without looking it up each time.
    fn open(slf: &Bound<'_, Self>, channel: &Bound<'_, PyAny>) -> PyResult<Channel> {
        let (py, name) = (slf.py(), name_bytes(channel)?);
        let mut this = borrow(slf)?;
        let core = this.inner(py)?;
        let inner = py.detach(|| core.channel(&name)).or_raise(py)?;
        let name = decode(py, &name)?.into_any();
        Ok(Channel { inner, name })
    }

    /// Ends what `open` began.
    fn close_channel(slf: &Bound<'_, Self>, channel: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let Ok(handle) = channel.cast_exact::<Channel>() else {
            let text = "close_channel takes a Channel, as open returns it";
            return Err(PyTypeError::new_err(text));
        };
        let channel = handle.get().inner;
        let mut this = borrow(slf)?;
        let core = this.inner(py)?;
        py.detach(|| core.close(channel)).or_raise(py)
    }

    /// Detaches: subscriptions end, what was sent is still delivered. Closing again is no error.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut this = borrow(slf)?;
        this.end_loan(py)?;
        match this.core.0.take() {
            Some(core) => py.detach(|| core.detach()).or_raise(py),
            None => Ok(()),
        }
    }

    /// The descriptor that becomes readable when a core whose `recv` returned None gets something.
    fn fileno(slf: &Bound<'_, Self>) -> PyResult<i32> {
        Ok(borrow(slf)?.inner(slf.py())?.as_raw_fd())
    }

    /// Whether the core is closed.
    #[getter]
    fn closed(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(borrow(slf)?.core.0.is_none())
    }

    /// The worker this core belongs to; the number of workers for an extra slot.
    #[getter]
    fn worker(slf: &Bound<'_, Self>) -> PyResult<u32> {
        Ok(borrow(slf)?.inner(slf.py())?.worker())
    }

    /// Its index within the worker.
    #[getter]
    fn core(slf: &Bound<'_, Self>) -> PyResult<u32> {
        Ok(borrow(slf)?.inner(slf.py())?.core())
    }

    /// Messages lost to this core so far because its queue was full.
    #[getter]
    fn lost(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(borrow(slf)?.inner(slf.py())?.lost())
    }

    /// How far it has sent: a count of bytes that grows with each message and request.
    #[getter]
    fn position(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(borrow(slf)?.inner(slf.py())?.position())
    }

    /// How far the router has taken that in: what is below that position is in the queues of all who
    /// were subscribed.
    #[getter]
    fn routed_position(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(borrow(slf)?.inner(slf.py())?.routed_position())
    }

    /// How many channels it has joined or asked to join.
    #[getter]
    fn joined(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Ok(borrow(slf)?.inner(slf.py())?.joined())
    }
}
