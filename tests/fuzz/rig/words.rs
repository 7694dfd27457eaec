//! Atomics that call a hook before each access. The hook may change what is there: the access then
//! finds what a worker could have written a moment before.

#![allow(clippy::disallowed_types)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64 as Real, Ordering};

type Hook = fn(*const u8, usize);

thread_local! {
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
}

/// Calls `hook` from now on before every load of a shared word or of foreign bytes, on this thread.
pub fn set_hook(hook: Option<Hook>) {
    HOOK.set(hook);
}

/// Said before each plain load of `len` bytes that another process may change meanwhile.
#[inline]
pub fn foreign(at: *const u8, len: usize) {
    if let Some(hook) = HOOK.get() {
        hook(at, len);
    }
}

/// The standard one, with the hook.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct AtomicU64(Real);

impl AtomicU64 {
    pub const fn new(value: u64) -> Self {
        Self(Real::new(value))
    }

    fn now(&self) -> &Real {
        foreign(std::ptr::from_ref(self).cast(), size_of::<Self>());
        &self.0
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.now().load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    pub fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.now().swap(value, order)
    }

    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.now().fetch_add(value, order)
    }

    pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.now().fetch_or(value, order)
    }

    pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.now().fetch_and(value, order)
    }

    pub fn compare_exchange(
        &self,
        old: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.now().compare_exchange(old, new, success, failure)
    }
}
