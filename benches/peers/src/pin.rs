//! Where processes run. Unpinned, a round trip here is 4 us or 100, as the scheduler likes.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors this process may use.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect()
}

/// Puts this thread, and what it starts from now on, on these processors.
pub fn pin(cpus: &[usize]) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Puts this thread back when dropped.
pub struct Pinned(Vec<usize>);

impl Pinned {
    /// Puts this thread, and what it starts until the end of it, on one processor.
    pub fn to(cpu: usize) -> Result<Pinned, Errno> {
        let before = allowed();
        pin(&[cpu])?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = pin(&self.0);
    }
}
