//! Opaque handles that know what state they are in.
//!
//! A handle is a value with one state word in front. The blocks of freed handles do not go
//! back to the allocator at once: they stay as tombstones in a ring of
//! [`TOMBSTONES`], so that a call with a stale pointer finds DETACHED and not
//! another object. No lock anywhere: a child forked while another thread was in a
//! call must be able to use the library.

// corecast::sync is the facade of what loom models; this state is private to a process.
#![allow(clippy::disallowed_types)]

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, compiler_fence};

use crate::error::{ChannelE, Failure};

/// Nobody is in a call.
const IDLE: u32 = 0;
/// A call is under way.
const IN_USE: u32 = 1;
/// The library panicked in a call: only freeing is left.
const POISONED: u32 = 2;
/// Freed: the value is dropped, the block is a tombstone.
const DETACHED: u32 = 3;

/// How many freed handles are remembered, of each kind. Older ones are freed for
/// good: memory stays flat however often a process attaches.
pub(crate) const TOMBSTONES: usize = 256;

/// A value that C holds a pointer to, used by one thread at a time.
pub(crate) struct Handle<T> {
    /// IDLE <-> IN_USE by the call itself; IN_USE -> POISONED by a panic;
    /// IDLE or POISONED -> DETACHED once, by whoever frees it.
    state: AtomicU32,
    /// The process that made it.
    pid: u32,
    /// Touched only by the call that set IN_USE, or that won DETACHED.
    value: UnsafeCell<ManuallyDrop<T>>,
}

/// The time in which a call works on the value. Left in any other way than by
/// [`Entered::done`], it poisons the handle.
pub(crate) struct Entered<'a, T> {
    handle: &'a Handle<T>,
}

impl<T> Handle<T> {
    /// A handle of this process, in no call.
    pub(crate) fn new(value: T) -> Handle<T> {
        Handle {
            state: AtomicU32::new(IDLE),
            pid: std::process::id(),
            value: UnsafeCell::new(ManuallyDrop::new(value)),
        }
    }

    /// Begins a call. A load and a store, no locked instruction: that is exact
    /// for a signal handler, which runs between two instructions of the thread and
    /// puts back what it found; two threads at once are the caller's mistake, which
    /// it only mostly finds.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Entered<'_, T>, Failure> {
        // Relaxed: the caller hands the handle from thread to thread, if at all,
        // in a way that orders its calls; the word itself publishes nothing.
        let state = self.state.load(Ordering::Relaxed);
        if state != IDLE {
            return Err(self.refusal(state));
        }
        self.state.store(IN_USE, Ordering::Relaxed);
        // A signal handler must not see the value being changed and the word still IDLE.
        compiler_fence(Ordering::SeqCst);
        Ok(Entered { handle: self })
    }

    /// Begins a call, exactly: of two threads that try at once, one gets IN_USE.
    /// For what is called too seldom to mind a locked instruction.
    pub(crate) fn claim(&self) -> Result<Entered<'_, T>, Failure> {
        // SYNC(handle.claim): pairs with the store of `done` by the thread before.
        self.state
            .compare_exchange(IDLE, IN_USE, Ordering::Acquire, Ordering::Relaxed)
            .map(|_| Entered { handle: self })
            .map_err(|state| self.refusal(state))
    }

    /// Why a call is refused.
    #[cold]
    fn refusal(&self, state: u32) -> Failure {
        let code = match state {
            DETACHED => ChannelE::Detached,
            // Another thread of the parent was in a call when this process was forked.
            _ if self.foreign() => ChannelE::WrongProcess,
            POISONED => ChannelE::Poisoned,
            _ => ChannelE::InUse,
        };
        Failure::Code(code)
    }

    /// Another process made it: this is the copy that a fork left here.
    pub(crate) fn foreign(&self) -> bool {
        self.pid != std::process::id()
    }

    /// Ends the life of the handle and gives the value out, once.
    pub(crate) fn take(&self) -> Result<T, Failure> {
        self.end()?;
        // SAFETY: `end` succeeds once, and after it no call enters: the value is ours.
        Ok(unsafe { ManuallyDrop::take(&mut *self.value.get()) })
    }

    /// Takes the state to DETACHED, from a state in which nobody works on the value.
    fn end(&self) -> Result<(), Failure> {
        for from in [IDLE, POISONED] {
            // SYNC(handle.end): pairs with itself; of two threads that free at once, one wins.
            let swapped =
                self.state
                    .compare_exchange(from, DETACHED, Ordering::AcqRel, Ordering::Acquire);
            if swapped.is_ok() {
                return Ok(());
            }
        }
        // Relaxed: only for the text.
        Err(self.refusal(self.state.load(Ordering::Relaxed)))
    }
}

impl<T> Entered<'_, T> {
    /// The call is over, and the value is whole.
    #[inline]
    pub(crate) fn done(self) {
        compiler_fence(Ordering::SeqCst);
        // SYNC(handle.done): pairs with the Acquire of `claim` and `end`. Release is a
        // plain store where it matters (x86) and one barrier elsewhere.
        self.handle.state.store(IDLE, Ordering::Release);
        std::mem::forget(self);
    }
}

impl<T> Drop for Entered<'_, T> {
    /// Reached by a panic only.
    fn drop(&mut self) {
        // SYNC(handle.done): as there; whoever frees the handle drops the value.
        self.handle.state.store(POISONED, Ordering::Release);
    }
}

impl<T> Deref for Entered<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: IN_USE was set by this call, so no other works on the value.
        unsafe { &*self.handle.value.get() }
    }
}

impl<T> DerefMut for Entered<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { &mut *self.handle.value.get() }
    }
}

/// The ring of tombstones of one kind of block.
pub(crate) struct Graves<B> {
    /// Blocks buried so far.
    buried: AtomicUsize,
    slots: [AtomicPtr<B>; TOMBSTONES],
}

impl<B> Graves<B> {
    /// An empty one, for a static: nothing is initialised lazily.
    pub(crate) const fn new() -> Graves<B> {
        Graves {
            buried: AtomicUsize::new(0),
            slots: [const { AtomicPtr::new(std::ptr::null_mut()) }; TOMBSTONES],
        }
    }

    /// Keeps a tombstone, and frees the one that lay longest in its place.
    ///
    /// # Safety
    /// `block` came from Box::into_raw and is buried once; its handle was taken;
    /// nobody uses it after TOMBSTONES more burials.
    pub(crate) unsafe fn bury(&self, block: *mut B) {
        // Relaxed: any distinct number will do; the swap below hands the block over.
        let at = self.buried.fetch_add(1, Ordering::Relaxed) % TOMBSTONES;
        // SYNC(graves.bury): pairs with itself; the block is freed after all use by its burier.
        let old = self.slots[at].swap(block, Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: from Box::into_raw and out of use (contract), and nobody else has
            // it: the swap took it out. What it held is gone already.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    fn code<T>(result: Result<T, Failure>) -> Option<ChannelE> {
        result.err().map(|e| e.code())
    }

    #[test]
    fn a_call_within_a_call_is_refused_and_the_outer_one_goes_on() {
        let handle = Handle::new(5);
        let mut outer = handle.enter().unwrap();
        assert_eq!(code(handle.enter()), Some(ChannelE::InUse));
        assert_eq!(code(handle.claim()), Some(ChannelE::InUse));
        assert_eq!(code(handle.take()), Some(ChannelE::InUse));
        *outer += 1;
        outer.done();
        handle.claim().unwrap().done();
        assert_eq!(handle.take().unwrap(), 6);
        assert_eq!(code(handle.take()), Some(ChannelE::Detached));
    }

    #[test]
    fn a_panic_poisons_and_freeing_still_drops_the_value() {
        let value = Rc::new(());
        let handle = Handle::new(Rc::clone(&value));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _entered = handle.enter();
            panic!("in a call");
        }));
        assert!(panicked.is_err());
        assert_eq!(code(handle.enter()), Some(ChannelE::Poisoned));
        assert_eq!(Rc::strong_count(&value), 2);
        drop(handle.take().unwrap());
        assert_eq!(Rc::strong_count(&value), 1);
        assert_eq!(code(handle.enter()), Some(ChannelE::Detached));
    }

    #[test]
    fn a_buried_block_is_freed_when_its_place_is_needed_and_not_before() {
        let graves = Graves::new();
        let alive = Rc::new(());
        // SAFETY: each block is new, and buried once.
        let bury = || unsafe { graves.bury(Box::into_raw(Box::new(Rc::clone(&alive)))) };
        (0..TOMBSTONES).for_each(|_| bury());
        assert_eq!(Rc::strong_count(&alive), 1 + TOMBSTONES);
        (0..TOMBSTONES / 2).for_each(|_| bury());
        assert_eq!(Rc::strong_count(&alive), 1 + TOMBSTONES);
        for slot in &graves.slots {
            // SAFETY: the ring is full, and goes out of use.
            drop(unsafe { Box::from_raw(slot.load(Ordering::Relaxed)) });
        }
        assert_eq!(Rc::strong_count(&alive), 1);
    }
}
