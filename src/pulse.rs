//! The master's pulse: a word that tells every core, with one load, that the master lives.
//!
//! It is the lock word of a robust mutex that the master's thread holds. When that thread ends, in
//! whatever way, the kernel sets a bit in it; nobody has to run for that, and nothing times out.
//! The word is a hint: a thread can end and leave its process, and with it the master, alive. So a
//! core that finds no pulse looks at the process before it says that the master is gone.
//!
//! Who writes: the master's thread by locking, the kernel. Who reads: all cores.

use crate::region::OsError;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// 64-bit words of a pthread_mutex_t.
const WORDS: usize = 5;
/// Where the C library keeps the word that the kernel knows: 32-bit words from the start.
const LOCK_WORD: usize = if cfg!(target_env = "musl") { 1 } else { 0 };

/// Set by the kernel when the owner has ended.
const OWNER_DIED: u32 = 0x4000_0000;
/// Somebody waits for the mutex; nobody does here.
const WAITERS: u32 = 0x8000_0000;

/// The mutex, of zeroes until [`Pulse::init`].
#[repr(C, align(8))]
#[derive(Debug)]
pub(crate) struct Pulse([AtomicU64; WORDS]);

const _: () = assert!(
    size_of::<libc::pthread_mutex_t>() <= size_of::<Pulse>()
        && align_of::<libc::pthread_mutex_t>() <= align_of::<Pulse>()
);

impl Pulse {
    /// Makes the mutex, in a region that nobody else uses yet.
    pub fn init(&self) -> Result<(), OsError> {
        let mut attributes = std::mem::MaybeUninit::uninit();
        let a = attributes.as_mut_ptr();
        // SAFETY: `a` is initialised by the first call; the mutex is memory of its size that only
        // this process uses yet.
        let errors = unsafe {
            [
                libc::pthread_mutexattr_init(a),
                libc::pthread_mutexattr_setpshared(a, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_mutexattr_setrobust(a, libc::PTHREAD_MUTEX_ROBUST),
                libc::pthread_mutex_init(self.mutex(), a),
                libc::pthread_mutexattr_destroy(a),
            ]
        };
        match errors.into_iter().find(|&e| e != 0) {
            None => Ok(()),
            Some(errno) => Err(OsError {
                call: "pthread_mutex_init",
                errno,
            }),
        }
    }

    /// The calling thread gives the pulse from now on. To be called by the master only, and again
    /// if the thread that did has ended.
    pub fn begin(&self) {
        let word = self.word();
        // Relaxed: a hint. The thread may be one of ours that gave the pulse and was told to
        // [`Self::end`] by another: the mutex is still its own.
        let seen = word.load(Ordering::Relaxed);
        if seen & OWNER_DIED != 0 && is_own_thread(seen & !(OWNER_DIED | WAITERS)) {
            word.fetch_and(!OWNER_DIED, Ordering::Relaxed);
            return;
        }
        // SAFETY: the mutex was made by `init`; consistent only says that it may be used again.
        unsafe {
            if libc::pthread_mutex_trylock(self.mutex()) == libc::EOWNERDEAD {
                libc::pthread_mutex_consistent(self.mutex());
            }
        }
        // Without the lock (a damaged region) cores look at the process each time.
    }

    /// The master has stopped.
    pub fn end(&self) {
        // SAFETY: as above. Fails if another thread holds it.
        if unsafe { libc::pthread_mutex_unlock(self.mutex()) } != 0 {
            // Relaxed: a hint.
            self.word().fetch_or(OWNER_DIED, Ordering::Relaxed);
        }
    }

    /// True while the thread that gives the pulse lives.
    #[inline]
    pub fn beats(&self) -> bool {
        // Relaxed: a hint; whoever acts on it looks closer first.
        let word = self.word().load(Ordering::Relaxed) & !WAITERS;
        word.wrapping_sub(1) < OWNER_DIED - 1
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: within the mutex; the C library and the kernel access it atomically too.
        unsafe { &*std::ptr::from_ref(self).cast::<AtomicU32>().add(LOCK_WORD) }
    }

    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

fn is_own_thread(tid: u32) -> bool {
    // SAFETY: signal 0 asks only whether the thread is there.
    let found = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, 0) };
    found == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse() -> &'static Pulse {
        let pulse = Box::leak(Box::new(Pulse(std::array::from_fn(|_| AtomicU64::new(0)))));
        pulse.init().expect("a mutex");
        pulse
    }

    #[test]
    fn it_beats_while_its_thread_lives() {
        let pulse = pulse();
        assert!(!pulse.beats(), "not begun");
        std::thread::spawn(|| {
            pulse.begin();
            assert!(pulse.beats());
        })
        .join()
        .expect("no panic");
        assert!(!pulse.beats(), "the thread has ended");
        pulse.begin();
        assert!(pulse.beats());
        pulse.end();
        assert!(!pulse.beats());
    }

    #[test]
    fn another_thread_may_end_it_and_begin_again() {
        let pulse = pulse();
        pulse.begin();
        std::thread::spawn(|| {
            pulse.end();
            assert!(!pulse.beats());
            pulse.begin();
            assert!(pulse.beats());
        })
        .join()
        .expect("no panic");
        assert!(pulse.beats(), "it is this thread's still");
    }
}
