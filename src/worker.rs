//! A worker: one process's right to the slots of its index.

use std::sync::Arc;

use crate::core::Core;
use crate::error::AttachError;
use crate::hub::Inner;
use crate::shared::VERSION;

/// A worker process's view of the hub; gives out its cores.
#[derive(Clone, Debug)]
pub struct Worker {
    inner: Arc<Inner>,
    index: u32,
}

impl Worker {
    pub(crate) fn new(inner: Arc<Inner>, index: u32) -> Result<Self, AttachError> {
        let config = &inner.view.config;
        let (workers, cores) = (config.workers, config.cores);
        if index >= workers {
            return Err(AttachError::WorkerOutOfRange {
                worker: index,
                workers,
            });
        }
        let worker = Self { inner, index };
        worker.check_version()?;
        if let Some(parent) = worker.inner.forked_from_guest() {
            return Err(AttachError::ForkedGuest { parent });
        }
        let first = (index * cores) as usize;
        let extra = (workers * cores) as usize;
        // Before closing anything: a worker that asks for another's slots keeps its own.
        if worker.inner.core_fds.get(first).is_none() {
            return Err(AttachError::Foreign { worker: index });
        }
        if worker.inner.is_forked_child() {
            worker.inner.guests.leave_to_parent();
            worker.inner.view.isolate(Some(index))?;
            let own = first..first + cores as usize;
            let fds = &worker.inner.core_fds;
            let assists = worker.inner.assist.is_some(); // and so wakes others
            fds.close_except(|slot| assists || own.contains(&slot) || slot >= extra);
        }
        worker.inner.mark.enter();
        Ok(worker)
    }

    /// Which worker this is.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Attaches core number `core` of this worker. One thread, greenlet or loop uses it.
    ///
    /// # Errors
    /// See [`AttachError`]. A slot whose last owner is dead is waited for: the master frees it.
    pub fn core(&self, core: u32) -> Result<Core, AttachError> {
        let slot = self.inner.slot_of(self.index, core)?;
        Core::attach(Arc::clone(&self.inner), slot)
    }

    fn check_version(&self) -> Result<(), AttachError> {
        self.inner
            .view
            .check_version()
            .map_err(|found| AttachError::Version {
                found,
                expected: VERSION,
            })
    }
}
