//! The one file that imports atomics.
//!
//! Everything else takes them from here, so that the protocol modules (`ticket`, `lane`,
//! `doorbell`, `queue`) run unchanged under the model checker. Two additions for the models:
//!
//! * loom treats a `SeqCst` access as `AcqRel`. Under `cfg(loom)` a `SeqCst` access is therefore
//!   bracketed by `fence(SeqCst)`, which loom does model; the code that ships pays nothing.
//! * [`order`] names an ordering by its SYNC tag. It is the identity in real builds; a model can
//!   weaken tags, or stop a thread at one, and show that the claim then fails, or still holds.
//!
//! For the fuzzer (`cfg(corecast_fuzz)`, tests/fuzz) every access to a 64-bit word first calls a
//! hook, and so does [`foreign`], which stands before every plain load of worker-written memory:
//! the hook may put other bytes there, so that no two loads need agree.

pub(crate) use std::sync::atomic::Ordering;

/// Said before each plain load of `len` bytes that another process may change meanwhile.
#[cfg(not(corecast_fuzz))]
#[inline(always)]
pub(crate) fn foreign(_at: *const u8, _len: usize) {}

#[cfg(corecast_fuzz)]
#[path = "../tests/fuzz/rig/words.rs"]
mod words;

#[cfg(not(loom))]
mod imp {
    #![allow(clippy::disallowed_types)]

    pub type AtomicBool = std::sync::atomic::AtomicBool;
    pub type AtomicU32 = std::sync::atomic::AtomicU32;
    #[cfg(not(corecast_fuzz))]
    pub type AtomicU64 = std::sync::atomic::AtomicU64;
    #[cfg(corecast_fuzz)]
    pub use super::words::{AtomicU64, foreign, set_hook};
    pub use std::sync::atomic::fence;

    /// The ordering to use at the place tagged `site`.
    #[inline(always)]
    pub const fn order(_site: &'static str, order: super::Ordering) -> super::Ordering {
        order
    }
}

#[cfg(loom)]
mod imp {
    use super::Ordering;
    pub use loom::sync::atomic::fence;
    use loom::thread::ThreadId;
    use std::cell::RefCell;

    thread_local! {
        // loom runs all threads of a model on one OS thread, so these are shared by them.
        static WEAKENED: RefCell<Vec<(&'static str, Ordering)>> = const { RefCell::new(Vec::new()) };
        static STOPS: RefCell<Vec<(&'static str, ThreadId)>> = const { RefCell::new(Vec::new()) };
        static STEPS: RefCell<Vec<(ThreadId, usize)>> = const { RefCell::new(Vec::new()) };
    }

    /// Restores all orderings, and forgets all stops, when dropped.
    #[must_use]
    pub struct Weakened(());

    impl Drop for Weakened {
        fn drop(&mut self) {
            WEAKENED.with_borrow_mut(Vec::clear);
            STOPS.with_borrow_mut(Vec::clear);
            STEPS.with_borrow_mut(Vec::clear);
        }
    }

    /// Makes each place named by a tag use the ordering given with it. `AcqRel` means `Acquire` at
    /// a load and `Release` at a store.
    pub fn weaken(sites: &[(&'static str, Ordering)]) -> Weakened {
        WEAKENED.with_borrow_mut(|w| *w = sites.to_vec());
        Weakened(())
    }

    /// What a thread unwinds with when it stops for ever.
    pub struct Stopped;

    /// Makes the calling thread of a model stop for ever (unwind with [`Stopped`]) when it next
    /// comes to the place tagged `site`.
    pub fn stop_at(site: &'static str) {
        STOPS.with_borrow_mut(|stops| stops.push((site, loom::thread::current().id())));
    }

    /// Makes the calling thread of a model stop for ever after `steps` more tagged orderings.
    pub fn stop_after(steps: usize) {
        let me = loom::thread::current().id();
        STEPS.with_borrow_mut(|all| {
            all.retain(|(thread, _)| *thread != me);
            all.push((me, steps));
        });
    }

    fn was_last_step() -> bool {
        STEPS.with_borrow_mut(|all| {
            if all.is_empty() {
                return false;
            }
            let me = loom::thread::current().id();
            let Some(at) = all.iter().position(|(thread, _)| *thread == me) else {
                return false;
            };
            if all[at].1 == 0 {
                all.remove(at);
                return true;
            }
            all[at].1 -= 1;
            false
        })
    }

    /// The ordering to use at the place tagged `site`.
    pub fn order(site: &'static str, order: Ordering) -> Ordering {
        if is_stop(site) || was_last_step() {
            // Not a panic: nothing is wrong, and the hook need not tell of it.
            std::panic::resume_unwind(Box::new(Stopped));
        }
        let weakened = |w: &Vec<(_, _)>| w.iter().find(|(s, _)| *s == site).map(|(_, o)| *o);
        WEAKENED.with_borrow(weakened).unwrap_or(order)
    }

    fn is_stop(site: &'static str) -> bool {
        let stops = |s: &Vec<_>| !s.is_empty() && s.contains(&(site, loom::thread::current().id()));
        STOPS.with_borrow(stops)
    }

    /// `loom`'s atomic, with `SeqCst` accesses bracketed by fences (see the module's header).
    #[derive(Debug)]
    pub struct AtomicU64(loom::sync::atomic::AtomicU64);

    fn fence_if(condition: bool) {
        if condition {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    fn bracketed<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
        fence_if(order == Ordering::SeqCst);
        let value = access();
        fence_if(order == Ordering::SeqCst);
        value
    }

    impl AtomicU64 {
        pub fn new(value: u64) -> Self {
            Self(loom::sync::atomic::AtomicU64::new(value))
        }

        pub fn load(&self, order: Ordering) -> u64 {
            let half = match order {
                Ordering::AcqRel => Ordering::Acquire,
                whole => whole,
            };
            bracketed(order, || self.0.load(half))
        }

        pub fn store(&self, value: u64, order: Ordering) {
            let half = match order {
                Ordering::AcqRel => Ordering::Release,
                whole => whole,
            };
            bracketed(order, || self.0.store(value, half));
        }

        pub fn swap(&self, value: u64, order: Ordering) -> u64 {
            bracketed(order, || self.0.swap(value, order))
        }

        pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            bracketed(order, || self.0.fetch_add(value, order))
        }

        pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
            bracketed(order, || self.0.fetch_or(value, order))
        }

        pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
            bracketed(order, || self.0.fetch_and(value, order))
        }

        /// The second fence belongs to the success alone. The first comes before the outcome is
        /// known: a failed `SeqCst` exchange is a little stronger here than the language has it.
        pub fn compare_exchange(
            &self,
            old: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            fence_if(success == Ordering::SeqCst);
            let result = self.0.compare_exchange(old, new, success, failure);
            fence_if(success == Ordering::SeqCst && result.is_ok());
            result
        }
    }
}

pub(crate) use imp::*;
