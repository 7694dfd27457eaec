//! The hub class.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;
use std::time::Duration;

use corecast::{Config, Master, MasterThread, Order, Overflow, Timestamps};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::bytes::name_bytes;
use crate::errors::{OrRaise, raise};

/// The shared region and all that lives in it. Made before fork; the children inherit it.
#[pyclass(frozen, subclass, module = "corecast._corecast")]
pub struct Hub(Mutex<State>);

struct State {
    hub: Option<corecast::Hub>,
    master: Role,
}

/// What this object does as the master. Dropped before the hub.
enum Role {
    None,
    Thread(MasterThread),
    Polled(Master),
}

/// Keywords by which `Hub.connect` says that the hub is there already.
const SOCKET: &str = "_socket";
const TIMEOUT: &str = "_timeout";

impl Hub {
    /// The hub that listens at a socket.
    fn guest(py: Python<'_>, name: &str, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let timeout = match settings.get_item(TIMEOUT)? {
            Some(timeout) => seconds("timeout", &timeout)?,
            None => Duration::ZERO,
        };
        let hub = py.detach(|| match name {
            "" => corecast::Hub::connect_from_environment(timeout),
            _ => corecast::Hub::connect(name, timeout),
        });
        let (hub, master) = (Some(hub.or_raise(py)?), Role::None);
        Ok(Self(Mutex::new(State { hub, master })))
    }

    /// The hub, if it is not closed.
    pub fn shared(&self, py: Python<'_>) -> PyResult<corecast::Hub> {
        self.with(py, |state| state.hub(py).cloned())
    }

    fn with<T>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> PyResult<T>) -> PyResult<T> {
        match self.0.try_lock() {
            Ok(mut state) => f(&mut state),
            Err(_) => Err(raise(
                py,
                "InUse",
                "another thread is in a call of this hub",
            )),
        }
    }
}

impl State {
    fn hub(&self, py: Python<'_>) -> PyResult<&corecast::Hub> {
        let hub = self.hub.as_ref();
        hub.ok_or_else(|| raise(py, "Detached", "this hub is closed"))
    }

    /// The master's role, taken by the first call.
    fn polled(&mut self, py: Python<'_>) -> PyResult<&mut Master> {
        let hub = self.hub(py)?.clone();
        if let Role::None = self.master {
            let mut master = hub.master().or_raise(py)?;
            // From here on its descriptor tells of work.
            master.poll(Some(Duration::ZERO)).or_raise(py)?;
            self.master = Role::Polled(master);
        }
        match &mut self.master {
            Role::Polled(master) => Ok(master),
            _ => Err(raise(
                py,
                "MasterRunning",
                "the master of this hub runs in a thread",
            )),
        }
    }
}

#[pymethods]
impl Hub {
    /// Makes a hub; each keyword is a field of the configuration.
    #[new]
    #[pyo3(signature = (*_args, **settings))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let mut config = Config::default();
        if let Some(settings) = settings {
            if let Some(name) = settings.get_item(SOCKET)? {
                return Self::guest(py, &name.extract::<String>()?, settings);
            }
            for (name, value) in settings.iter() {
                set(&mut config, &name.extract::<String>()?, &value)?;
            }
        }
        let hub = corecast::Hub::create(&config).or_raise(py)?;
        let (hub, master) = (Some(hub), Role::None);
        Ok(Self(Mutex::new(State { hub, master })))
    }

    /// Runs the master on a thread of its own, in this process.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state| {
            if !matches!(state.master, Role::None) {
                return Err(raise(py, "MasterRunning", "this hub has a master already"));
            }
            state.master = Role::Thread(state.hub(py)?.start().or_raise(py)?);
            Ok(())
        })
    }

    /// Ends the master, if this process has it: cores learn that it is gone.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state| {
            let master = std::mem::replace(&mut state.master, Role::None);
            py.detach(|| match master {
                Role::Thread(thread) => thread.stop(),
                Role::None | Role::Polled(_) => Ok(()),
            })
            .or_raise(py)
        })
    }

    /// Stops the master and lets go of the hub in this process; attached cores stay usable.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let stopped = self.stop(py);
        self.with(py, |state| {
            state.hub = None;
            Ok(())
        })?;
        stopped
    }

    /// Routes as the master, in this thread; waits up to `timeout` seconds for something to do.
    /// Returns the number of messages routed. Looks at signals at least every 100 ms.
    #[pyo3(signature = (timeout=0.0))]
    fn poll(&self, py: Python<'_>, timeout: f64) -> PyResult<usize> {
        let wait = Duration::try_from_secs_f64(timeout).map_err(|_| {
            PyValueError::new_err(format!(
                "timeout is {timeout}; it must be 0 or more seconds"
            ))
        })?;
        self.with(py, |state| {
            let master = state.polled(py)?;
            py.detach(|| master.poll(Some(wait))).or_raise(py)
        })
    }

    /// A descriptor that is readable when `poll` has something to do.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.with(py, |state| Ok(state.polled(py)?.as_fd().as_raw_fd()))
    }

    /// Opens a Unix socket at which other processes connect; gives its name. Workers from
    /// `first_worker` on are for them.
    #[pyo3(signature = (name=None, first_worker=0))]
    fn listen(&self, py: Python<'_>, name: Option<&str>, first_worker: u32) -> PyResult<String> {
        self.shared(py)?.listen(name, first_worker).or_raise(py)
    }

    /// In a process that has connected: which worker it is, and its first core. Else None.
    #[getter]
    fn seat(&self, py: Python<'_>) -> PyResult<Option<(u32, u32)>> {
        let seat = self.shared(py)?.seat();
        Ok(seat.map(|seat| (seat.worker, seat.core)))
    }

    /// Tells the master that a worker has died, for a host that learns of it first.
    fn worker_died(&self, py: Python<'_>, worker: u32) -> PyResult<()> {
        self.shared(py)?.worker_died(worker).or_raise(py)
    }

    /// Who has joined a channel now, as (worker, core): a snapshot.
    fn subscribers(&self, channel: &Bound<'_, PyAny>) -> PyResult<Vec<(u32, u32)>> {
        let found = self.shared(channel.py())?.subscribers(name_bytes(channel)?);
        Ok(found.iter().map(|who| (who.worker, who.core)).collect())
    }

    /// The live counters, by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = PyDict::new(py);
        for (name, value) in self.shared(py)?.stats().iter() {
            counters.set_item(name, value)?;
        }
        Ok(counters)
    }

    /// Worker processes it was made for.
    #[getter]
    fn workers(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.shared(py)?.config().workers)
    }

    /// Cores per worker.
    #[getter]
    fn cores(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.shared(py)?.config().cores)
    }

    /// Longest message body, bytes.
    #[getter]
    fn max_message(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.shared(py)?.config().max_message)
    }
}

/// Sets one field of the configuration.
fn set(config: &mut Config, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    match name {
        "workers" => config.workers = number(name, value)?,
        "cores" => config.cores = number(name, value)?,
        "extra" => config.extra = number(name, value)?,
        "channels" => config.channels = number(name, value)?,
        "lane_bytes" => config.lane_bytes = number(name, value)?,
        "queue_bytes" => config.queue_bytes = number(name, value)?,
        "arena_bytes" => config.arena_bytes = number(name, value)?,
        "slab_bytes" => config.slab_bytes = number(name, value)?,
        "max_message" => config.max_message = number(name, value)?,
        "assist" => {
            config.assist = value.extract()?;
            config.isolation = !config.assist;
        }
        "huge_pages" => config.huge_pages = value.extract()?,
        "populate" => config.populate = value.extract()?,
        "spin" => config.spin = seconds(name, value)?,
        "answer_timeout" => config.answer_timeout = seconds(name, value)?,
        "overflow" => {
            let drop_newest = ("drop_newest", Overflow::DropNewest);
            let others = [
                ("drop_oldest", Overflow::DropOldest),
                ("block", Overflow::Block),
            ];
            config.overflow = choice(name, value, &[drop_newest, others[0], others[1]])?;
        }
        "timestamps" => {
            let off = ("off", Timestamps::Off);
            let others = [
                ("batch", Timestamps::Batch),
                ("message", Timestamps::Message),
            ];
            config.timestamps = choice(name, value, &[off, others[0], others[1]])?;
        }
        "order" => {
            let choices = [("total", Order::Total), ("per_sender", Order::PerSender)];
            config.order = choice(name, value, &choices)?;
        }
        _ => {
            let text = format!("a hub has no setting {name:?}");
            return Err(PyTypeError::new_err(text));
        }
    }
    Ok(())
}

/// A whole number; the exception names the setting.
fn number<'py, T>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    value.extract().map_err(|e: PyErr| {
        let py = value.py();
        if e.is_instance_of::<PyOverflowError>(py) {
            let text = format!("{name} is {value}; it must be a number from 0 on, within 64 bits");
            return raise(py, "ConfigError", text);
        }
        PyTypeError::new_err(format!("{name}: {}", e.value(py)))
    })
}

fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds: f64 = value.extract()?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        PyValueError::new_err(format!("{name} is {seconds}; it must be 0 or more seconds"))
    })
}

fn choice<T: Copy>(name: &str, value: &Bound<'_, PyAny>, choices: &[(&str, T)]) -> PyResult<T> {
    let given: String = value.extract()?;
    let known = choices.iter().find(|(text, _)| *text == given);
    known.map(|(_, choice)| *choice).ok_or_else(|| {
        let texts: Vec<_> = choices.iter().map(|(text, _)| *text).collect();
        PyValueError::new_err(format!("{name} is {given:?}; it must be one of {texts:?}"))
    })
}
