//! Where the router's state lies: in its process's own memory, or in a pool that forked workers
//! have too.
//!
//! A [`Block`] is an array of fixed length in either. A [`Pool`] is a mapping made before the first
//! fork, at the same address in every descendant, so that what is built in it may point into itself;
//! whoever holds the role of the router (`doorbell`) may use it, and nobody else. What a worker
//! leaves half-written in it when it dies is thrown away whole ([`Pool::clear`]) and made anew from
//! the region, as by a successor. Nothing in a pool is ever dropped.

use std::alloc::{self, Layout};
use std::ffi::c_void;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use crate::region::{OsError, memfd};
use crate::sync::{AtomicU64, Ordering};

/// Blocks begin on cache lines of their own.
const LINE: usize = 64;

/// Where blocks are made. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    /// Of this process alone.
    Own,
    /// In a pool, which stays mapped as long as anything in it is used.
    Pool(NonNull<Head>),
}

/// Types that may be all zeroes.
///
/// # Safety
/// All bytes zero are a value of the type.
pub(crate) unsafe trait Zeroes: Copy {}
// SAFETY: numbers.
unsafe impl Zeroes for u32 {}
// SAFETY: numbers.
unsafe impl Zeroes for u64 {}
// SAFETY: numbers.
unsafe impl Zeroes for u128 {}
// SAFETY: numbers.
unsafe impl Zeroes for (u64, u32) {}

impl Memory {
    /// Zeroed memory, which costs nothing until it is touched.
    fn allocate(self, layout: Layout) -> NonNull<u8> {
        match self {
            // SAFETY: the caller asks for no empty layout.
            Self::Own => NonNull::new(unsafe { alloc::alloc_zeroed(layout) })
                .unwrap_or_else(|| alloc::handle_alloc_error(layout)),
            // SAFETY: a pool's head, mapped as long as it is used.
            Self::Pool(head) => unsafe { Head::allocate(head, layout) },
        }
    }
}

/// An array of fixed length.
pub(crate) struct Block<T> {
    at: NonNull<T>,
    len: usize,
    memory: Memory,
}

// SAFETY: it owns its elements, as a boxed slice does.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> Block<T> {
    /// Of `make`'s values for 0, 1, ...
    pub fn new(memory: Memory, len: usize, mut make: impl FnMut(usize) -> T) -> Self {
        let at = Self::room(memory, len);
        for i in 0..len {
            // SAFETY: i < len elements of room.
            unsafe { at.add(i).write(make(i)) };
        }
        Self { at, len, memory }
    }

    /// All zero.
    pub fn zeroed(memory: Memory, len: usize) -> Self
    where
        T: Zeroes,
    {
        let at = Self::room(memory, len);
        Self { at, len, memory }
    }

    /// Bytes that a block takes of a pool, at most.
    pub const fn footprint(len: usize) -> usize {
        len * size_of::<T>() + align_of::<T>() + LINE
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len).expect("checked by the configuration's limits")
    }

    fn room(memory: Memory, len: usize) -> NonNull<T> {
        match Self::layout(len) {
            layout if layout.size() == 0 => NonNull::dangling(),
            layout => memory.allocate(layout).cast(),
        }
    }
}

impl<T> Deref for Block<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values from `at` on are this block's own.
        unsafe { NonNull::slice_from_raw_parts(self.at, self.len).as_ref() }
    }
}

impl<T> DerefMut for Block<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { NonNull::slice_from_raw_parts(self.at, self.len).as_mut() }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        if matches!(self.memory, Memory::Pool(_)) {
            return; // others may use it still, and it is given back all at once
        }
        let layout = Self::layout(self.len);
        // SAFETY: the values are this block's own and not used again; their memory came from `alloc`
        // with this layout.
        unsafe {
            NonNull::slice_from_raw_parts(self.at, self.len).drop_in_place();
            if layout.size() > 0 {
                alloc::dealloc(self.at.as_ptr().cast(), layout);
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One value in such memory.
#[derive(Debug)]
pub(crate) struct Place<T>(Block<T>);

impl<T> Place<T> {
    pub fn new(memory: Memory, value: T) -> Self {
        let mut value = Some(value);
        let take = |_| value.take().expect("asked for one");
        Self(Block::new(memory, 1, take))
    }

    /// Where it is; it stays there.
    pub fn address(&self) -> NonNull<T> {
        self.0.at
    }
}

impl<T> Deref for Place<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0[0]
    }
}

impl<T> DerefMut for Place<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0[0]
    }
}

/// The start of a pool. Written by whoever holds the role, so Relaxed throughout: the word that
/// gives the role orders it.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Head {
    /// Bytes given out, this head included.
    used: AtomicU64,
    /// Bytes of the pool.
    len: AtomicU64,
    /// Address of what the pool is for; 0 while it is not there.
    root: AtomicU64,
}

impl Head {
    /// # Safety
    /// The head of a mapped pool; the caller holds the role.
    unsafe fn allocate(head: NonNull<Self>, layout: Layout) -> NonNull<u8> {
        // SAFETY: mapped, all atomics.
        let this = unsafe { head.as_ref() };
        let used = this.used.load(Ordering::Relaxed) as usize;
        let start = used.next_multiple_of(layout.align().max(LINE));
        let end = start + layout.size();
        assert!(
            end <= this.len.load(Ordering::Relaxed) as usize,
            "a pool is made large enough"
        );
        this.used.store(end as u64, Ordering::Relaxed);
        // SAFETY: within the pool, which begins at the head.
        unsafe { head.cast::<u8>().add(start) }
    }
}

/// Memory that forked descendants share, at the same address in each. Unmapped when dropped, in the
/// process that drops it.
#[derive(Debug)]
pub(crate) struct Pool {
    head: NonNull<Head>,
    len: NonZeroUsize,
}

// SAFETY: a mapping belongs to no thread; its head is all atomics.
unsafe impl Send for Pool {}
// SAFETY: as above. What else is in it is reached by the holder of the role alone.
unsafe impl Sync for Pool {}

impl Pool {
    /// An empty pool for blocks of so many bytes. They take memory as they are touched.
    pub fn create(bytes: usize) -> Result<Self, OsError> {
        let len = bytes + size_of::<Head>();
        let len = NonZeroUsize::MIN.saturating_add(len - 1);
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // Of a memfd, so that it has a name where people look, and what a dead worker leaves can be
        // freed; it is closed here.
        let memfd = memfd("corecast router", len.get(), false)?;
        // SAFETY: a fresh mapping.
        let at = unsafe { mmap(None, len, rights, flags, memfd, 0) };
        let pool = Self {
            head: at.map_err(OsError::of("mmap"))?.cast(),
            len,
        };
        pool.reset();
        Ok(pool)
    }

    /// Where to make blocks.
    ///
    /// # Safety
    /// The pool outlives them, and whoever uses them holds the role.
    pub unsafe fn memory(&self) -> Memory {
        Memory::Pool(self.head)
    }

    /// Forgets all blocks, dropping nothing. The caller holds the role, and nobody uses what is there
    /// any more.
    pub fn clear(&self) {
        // SAFETY: the pool's own mapping, all of which is given up. Blocks rely on zeroes.
        let removed = unsafe { madvise(self.head.cast(), self.len.get(), MmapAdvise::MADV_REMOVE) };
        if removed.is_err() {
            let at: NonNull<c_void> = self.head.cast();
            // SAFETY: as above.
            unsafe { at.cast::<u8>().write_bytes(0, self.len.get()) };
        }
        self.reset();
    }

    fn reset(&self) {
        let head = self.head();
        head.len.store(self.len.get() as u64, Ordering::Relaxed);
        head.used.store(size_of::<Head>() as u64, Ordering::Relaxed);
        head.root.store(0, Ordering::Relaxed);
    }

    /// What the pool is for: the address of a value in it.
    pub fn set_root<T>(&self, at: NonNull<T>) {
        let address = at.addr().get() as u64;
        self.head().root.store(address, Ordering::Relaxed);
    }

    /// The value that `set_root` was given last, if it is there.
    pub fn root<T>(&self) -> Option<NonNull<T>> {
        let address = self.head().root.load(Ordering::Relaxed);
        let address = NonZeroUsize::new(address as usize)?;
        Some(self.head.map_addr(|_| address).cast())
    }

    fn head(&self) -> &Head {
        // SAFETY: mapped until drop, all atomics.
        unsafe { self.head.as_ref() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: its own mapping; whoever uses what is in it holds the pool. Cannot fail for a range
        // that was mapped whole.
        let _ = unsafe { munmap(self.head.cast(), self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn blocks_drop_what_they_hold() {
        let value = Rc::new(());
        let block = Block::new(Memory::Own, 5, |_| Rc::clone(&value));
        assert_eq!(Rc::strong_count(&value), 6);
        drop(block);
        assert_eq!(Rc::strong_count(&value), 1);
        let empty: Block<u64> = Block::zeroed(Memory::Own, 0);
        assert!(empty.is_empty());
    }

    #[test]
    fn a_pool_gives_zeroes_again_after_it_was_cleared() {
        let bytes = Block::<u64>::footprint(1000) + Block::<u128>::footprint(3);
        let pool = Pool::create(bytes).expect("memory");
        for round in 0..3 {
            // SAFETY: the pool lives longer than the blocks, in the one thread that uses it.
            let memory = unsafe { pool.memory() };
            assert_eq!(pool.root::<u64>(), None);
            let mut words: Block<u64> = Block::zeroed(memory, 1000);
            let wide: Block<u128> = Block::zeroed(memory, 3);
            assert!(words.iter().all(|&w| w == 0), "round {round}");
            assert!(wide.as_ptr().is_aligned());
            words.fill(round + 1);
            assert!(wide.iter().all(|&w| w == 0));
            pool.set_root(words.at);
            assert_eq!(pool.root(), Some(words.at));
            drop((words, wide));
            pool.clear();
        }
    }

    #[test]
    #[should_panic(expected = "large enough")]
    fn a_pool_that_is_too_small_says_so() {
        let pool = Pool::create(100).expect("memory");
        // SAFETY: as above.
        let _ = Block::<u64>::zeroed(unsafe { pool.memory() }, 1000);
    }
}
