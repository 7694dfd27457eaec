//! Which process is this? Asked on every call, so it must cost less than a system call.
//!
//! A page that the kernel wipes in the child of a fork holds the pid of the process that last
//! wrote it. A core remembers the pid it was attached by; in a forked child the page reads 0, or
//! the child's own pid once it has attached something itself.
//!
//! And: does that process still live, given that pids are reused and an exec keeps them?

use std::ptr::NonNull;

use crate::liveness::{has_ended, pidfd_open};
use crate::region::{OsError, Shared};
use crate::sync::{AtomicU32, Ordering};

/// One process running one program: its pid, when it started, and which of the programs that it
/// has run. 62 bits: pid (22, as many as Linux has), clock tick of the start (20), program (20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life(u64);

const PART_BITS: u32 = 20;
const PART_MASK: u64 = (1 << PART_BITS) - 1;

impl Life {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        let start = start_tick(pid).unwrap_or(0);
        Self(u64::from(pid) << (2 * PART_BITS) | start << PART_BITS | program())
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn pid(self) -> u32 {
        (self.0 >> (2 * PART_BITS)) as u32
    }

    /// True when that process has ended, or runs another program by now. Without evidence, false.
    pub fn is_over(self) -> bool {
        if self.pid() == std::process::id() {
            return self != Self::current();
        }
        match pidfd_open(self.pid()) {
            Ok(fd) => has_ended(&fd) || !self.has_started_as(self.pid()),
            Err(e) => e == nix::errno::Errno::ESRCH,
        }
    }

    /// False when the pid has been given to a later process.
    pub fn has_started_as(self, pid: u32) -> bool {
        let recorded = self.0 >> PART_BITS & PART_MASK;
        start_tick(pid).is_none_or(|start| start == recorded || recorded == 0)
    }
}

/// When a process started: low bits of the clock tick since boot, 20 of them. None where /proc is
/// not there.
pub(crate) fn start_tick(pid: u32) -> Option<u64> {
    // The start is field 22, 19 after the state.
    Some(stat_field(pid, 19)? & PART_MASK)
}

/// A field of a process's stat line, counted from the state.
fn stat_field(pid: u32, n: usize) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(n)?.parse().ok()
}

/// True when a process is bound to end though it has not yet: it was killed, or is exiting. On a
/// busy machine that can take long. Without evidence, false.
pub(crate) fn is_dying(pid: u32) -> bool {
    const EXITING: u64 = 4; // PF_EXITING; the flags are field 9, 6 after the state
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let is_killed = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let pending = text.lines().find_map(|line| line.strip_prefix("ShdPnd:"))?;
        let pending = u64::from_str_radix(pending.trim(), 16).ok()?;
        Some(pending & KILL != 0)
    };
    stat_field(pid, 6).is_some_and(|flags| flags & EXITING != 0) || is_killed().unwrap_or(false)
}

/// Tells apart the programs that a process runs one after the other (exec): the kernel gives each
/// 16 random bytes.
fn program() -> u64 {
    // SAFETY: no memory is involved; the result is 0 or the address of 16 bytes that stay.
    let random = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const [u64; 2];
    if random.is_null() {
        return 0;
    }
    // SAFETY: as above; the kernel does not promise alignment.
    let [a, b] = unsafe { random.read_unaligned() };
    // A few mixed bits: libc makes secrets of the whole.
    (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xff51_afd7_ed55_8ccd)) >> 44
}

/// The page. Where the kernel does not know `MADV_WIPEONFORK`, every look asks for the pid.
#[derive(Debug)]
pub(crate) struct ProcessMark {
    page: NonNull<AtomicU32>,
    wiped: bool,
}

// SAFETY: the page holds one atomic; unmapped only on drop.
unsafe impl Send for ProcessMark {}
// SAFETY: as above.
unsafe impl Sync for ProcessMark {}

const BYTES: usize = crate::layout::PAGE;

impl ProcessMark {
    pub fn create() -> Result<Self, OsError> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, prot, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(OsError::last("mmap"));
        }
        // SAFETY: our own mapping.
        let wiped = unsafe { libc::madvise(page, BYTES, libc::MADV_WIPEONFORK) } == 0;
        let page = NonNull::new(page.cast()).ok_or(OsError::last("mmap"))?;
        let mark = Self { page, wiped };
        mark.enter();
        Ok(mark)
    }

    /// Marks the page as this process's, and returns its pid.
    pub fn enter(&self) -> u32 {
        let pid = std::process::id();
        // Relaxed: all threads of a process store the same value. Without wiping the word stays
        // 0, so that nobody trusts it.
        let seen = if self.wiped { pid } else { 0 };
        self.word().store(seen, Ordering::Relaxed);
        pid
    }

    /// The word that [`Self::current`] looks at, for hot paths to look at themselves: while it
    /// reads as their pid, this is their process. Else they must ask `current`.
    pub fn word_ptr(&self) -> Shared<AtomicU32> {
        // SAFETY: an atomic in a mapping that lives as long as `self`; holders of the result
        // keep the hub that owns this mark.
        unsafe { Shared::from_ptr(self.page) }
    }

    /// The pid of this process, or 0 in a fresh child of a fork.
    #[inline]
    pub fn current(&self) -> u32 {
        if self.wiped {
            // Relaxed: set before any handle that compares with it was made.
            self.word().load(Ordering::Relaxed)
        } else {
            std::process::id()
        }
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped until drop, page aligned, zero is a valid atomic.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for ProcessMark {
    fn drop(&mut self) {
        // SAFETY: our own mapping, no longer used.
        unsafe { libc::munmap(self.page.as_ptr().cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_over_when_its_pid_has_started_anew_or_runs_another_program() {
        let own = Life::current();
        assert_eq!(own.pid(), std::process::id());
        assert!(!own.is_over());
        assert!(Life(own.0 ^ 1).is_over(), "another program");
        let parent = std::os::unix::process::parent_id();
        let start = start_tick(parent).expect("procfs");
        let life = |start: u64| Life(u64::from(parent) << 40 | start << PART_BITS);
        assert!(!life(start).is_over());
        assert!(life(start ^ 2).is_over(), "another process");
        assert!(
            Life(u64::from(u32::MAX >> 10) << 40).is_over(),
            "no process"
        );
    }
}
