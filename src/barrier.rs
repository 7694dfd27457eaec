//! A barrier in two unequal halves: one side, which runs all the time, pays nothing; the other,
//! which runs rarely, has the kernel put a barrier into whatever the first is doing.
//!
//! Two threads that each store a word and then load the other's need a full barrier in between, or
//! both may miss the other's store. With [`light`] on one side and [`heavy`] on the other one of the
//! two sees the other all the same: `membarrier(2)` returns after each thread of a process that has
//! [`register`]ed has executed a full barrier at some point of the call. What a thread stored before
//! that point is visible when the call returns, and what it loads after it sees what the caller had
//! stored before. A thread that does not run passed a barrier when it was switched out.
//!
//! Only a process that was forked from one that had registered can be relied on. Linux (6.18) keeps
//! with each processor whether what runs there has registered, looks at that when a thread comes to run
//! after one of another process, and tells the processors that run a thread of a process that registers:
//! not those that rest with its memory still loaded. The call then passes such a processor over. (Seen
//! in 17 of 40 runs of a program as the test below, with threads instead of processes.)
//!
//! Measured on two processors of a virtual machine: [`heavy`] takes 1.8 us while a registered
//! process runs on the other, 0.2 us otherwise; a locked exchange that waits for the lines just
//! written takes 8 ns of each send.

#[cfg(not(loom))]
mod imp {
    use std::sync::atomic::{Ordering, compiler_fence};

    const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
    const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

    /// The side that pays nothing: what stands before is stored before what stands behind is loaded,
    /// as far as a thread can tell that calls [`heavy`] in between.
    #[inline(always)]
    pub fn light() {
        // The compiler keeps the order; the processor need not, until the kernel makes it.
        compiler_fence(Ordering::SeqCst);
    }

    /// The side that pays. False when the kernel has no such call, or does not let this process
    /// use it.
    pub fn heavy() -> bool {
        membarrier(GLOBAL_EXPEDITED)
    }

    /// From here on processes that this one forks answer to [`heavy`] calls of others. Whether it does
    /// so itself is not sure, see above. False when the kernel has no such call, or does not let this
    /// process use it.
    pub fn register() -> bool {
        membarrier(REGISTER_GLOBAL_EXPEDITED)
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: takes no pointer.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }
}

#[cfg(loom)]
mod imp {
    use crate::sync::{Ordering, fence, order};

    /// In a model a barrier is one on both sides: what the kernel makes of a pair of them.
    pub fn light() {
        if order("barrier.light", Ordering::SeqCst) == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
    }

    pub fn heavy() -> bool {
        if order("barrier.heavy", Ordering::SeqCst) == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
        true
    }
}

pub(crate) use imp::*;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{AtomicU64, Ordering, fence};
    use std::time::{Duration, Instant};

    /// Alone on its cache lines.
    #[repr(align(128))]
    struct Word(AtomicU64);

    /// What both processes share, all zeroes.
    struct Words {
        x: Word,
        y: Word,
        round: Word,
        done: Word,
    }

    impl Words {
        fn new() -> &'static Self {
            let (prot, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            );
            // SAFETY: a fresh page, zeroed, never unmapped.
            unsafe {
                let at = libc::mmap(std::ptr::null_mut(), size_of::<Self>(), prot, flags, -1, 0);
                assert_ne!(at, libc::MAP_FAILED);
                &*at.cast()
            }
        }

        /// In each round: stores to x, then looks at y.
        fn play(&self) -> ! {
            for n in 1.. {
                while self.round.0.load(Ordering::Acquire) < n {
                    std::hint::spin_loop();
                }
                self.x.0.store(n, Ordering::Relaxed);
                light();
                let saw = self.y.0.load(Ordering::Relaxed) == n;
                self.done.0.store(2 * n + u64::from(saw), Ordering::Release);
            }
            unreachable!()
        }

        /// In each round: stores to y, then looks at x. Returns how often neither saw the other.
        fn count_blind(&self, barrier: fn()) -> u64 {
            let (mut blind, start) = (0, Instant::now());
            let first = self.round.0.load(Ordering::Relaxed) + 1;
            for n in first..first + 100_000 {
                self.round.0.store(n, Ordering::Release);
                // It is not always the same part of the other's way that this meets.
                (0..n % 64).for_each(|_| std::hint::spin_loop());
                self.y.0.store(n, Ordering::Relaxed);
                barrier();
                let sees = self.x.0.load(Ordering::Relaxed) == n;
                while self.done.0.load(Ordering::Acquire) < 2 * n {
                    std::thread::yield_now();
                }
                let saw = self.done.0.load(Ordering::Relaxed) % 2 == 1;
                blind += u64::from(!sees && !saw);
                if start.elapsed() > Duration::from_secs(20) {
                    break;
                }
            }
            blind
        }
    }

    #[test]
    fn with_half_a_barrier_each_one_of_two_processes_sees_the_other() {
        if !register() {
            println!("the kernel has no membarrier(2)");
            return;
        }
        let words = Words::new();
        // SAFETY: the child touches nothing but these words.
        let child = unsafe { libc::fork() };
        if child == 0 {
            words.play();
        }
        let with = words.count_blind(|| assert!(heavy()));
        // That this would show: the caller's own barrier alone does not do. Not on one processor, though,
        // nor in a build whose every access is slowed down.
        let own = || words.count_blind(|| fence(Ordering::SeqCst));
        let without = (0..20).map(|_| own()).find(|&n| n > 0).unwrap_or(0);
        println!("neither saw the other: {with} times, without the kernel's barrier {without}");
        // SAFETY: our child, which does not end by itself.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        assert_eq!(with, 0);
    }
}
