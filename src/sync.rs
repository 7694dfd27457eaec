//! The one file that imports atomics.
//!
//! Everything else takes them from here, so that the protocol modules (`ticket`, `lane`,
//! `doorbell`, `queue`) run unchanged under the model checker. Two additions for the models:
//!
//! * loom treats a `SeqCst` access as `AcqRel`. Under `cfg(loom)` a `SeqCst` access is therefore
//!   bracketed by `fence(SeqCst)`, which loom does model; the code that ships pays nothing.
//! * [`order`] names an ordering by its SYNC tag. It is the identity in real builds; a model can
//!   weaken one tag and show that the claim then fails.

pub(crate) use std::sync::atomic::Ordering;

#[cfg(not(loom))]
mod imp {
    #![allow(clippy::disallowed_types)]

    pub type AtomicBool = std::sync::atomic::AtomicBool;
    pub type AtomicU32 = std::sync::atomic::AtomicU32;
    pub type AtomicU64 = std::sync::atomic::AtomicU64;
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
    use std::cell::Cell;

    thread_local! {
        // loom runs all threads of a model on one OS thread, so this is shared by them.
        static WEAKENED: Cell<Option<(&'static str, Ordering)>> = const { Cell::new(None) };
    }

    /// Makes the place tagged `site` use `order`; `None` restores all.
    pub fn weaken(site: Option<(&'static str, Ordering)>) {
        WEAKENED.with(|w| w.set(site));
    }

    /// The ordering to use at the place tagged `site`.
    pub fn order(site: &'static str, order: Ordering) -> Ordering {
        match WEAKENED.with(Cell::get) {
            Some((weak, replacement)) if weak == site => replacement,
            _ => order,
        }
    }

    /// `loom`'s atomic, with `SeqCst` accesses bracketed by fences (see the module's header).
    #[derive(Debug)]
    pub struct AtomicU64(loom::sync::atomic::AtomicU64);

    fn bracketed<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
        let seq_cst = order == Ordering::SeqCst;
        if seq_cst {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
        let value = access();
        if seq_cst {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
        value
    }

    impl AtomicU64 {
        pub fn new(value: u64) -> Self {
            Self(loom::sync::atomic::AtomicU64::new(value))
        }

        pub fn load(&self, order: Ordering) -> u64 {
            bracketed(order, || self.0.load(order))
        }

        pub fn store(&self, value: u64, order: Ordering) {
            bracketed(order, || self.0.store(value, order));
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

        pub fn compare_exchange(
            &self,
            old: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            bracketed(success, || {
                self.0.compare_exchange(old, new, success, failure)
            })
        }
    }
}

pub(crate) use imp::*;
