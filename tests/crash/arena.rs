//! Memory that can be put back: what the router, the master and the cores under test keep in
//! their own memory is allocated here, one object behind the other, so that a copy of the part in
//! use is a copy of their whole private state. Nothing is reused: a point allocates little, and
//! putting back frees it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Address space of the arena; memory only where used.
const BYTES: usize = 256 << 20;

/// Where the arena starts; 0 until first used.
static START: AtomicUsize = AtomicUsize::new(0);
/// Bytes in use.
static USED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Allocates from the arena inside of [`inside`], from the system otherwise.
pub struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: the arena hands out each byte once, aligned; the system allocator does the rest.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if INSIDE.get() {
            return take(layout);
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if !is_ours(at) {
            // SAFETY: not of the arena, so of the system allocator.
            unsafe { System.dealloc(at, layout) }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if !is_ours(at) && !INSIDE.get() {
            // SAFETY: the caller's contract; not of the arena.
            return unsafe { System.realloc(at, layout, bytes) };
        }
        // SAFETY: the caller's contract: the new layout is valid, both blocks are live and apart.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(bytes, layout.align()));
            std::ptr::copy_nonoverlapping(at, new, bytes.min(layout.size()));
            self.dealloc(at, layout);
            new
        }
    }
}

// Relaxed throughout: one thread at a time is inside.
fn take(layout: Layout) -> *mut u8 {
    let at = USED
        .load(Ordering::Relaxed)
        .next_multiple_of(layout.align());
    let end = at + layout.size();
    if end > BYTES {
        return std::ptr::null_mut();
    }
    USED.store(end, Ordering::Relaxed);
    (start() + at) as *mut u8
}

fn start() -> usize {
    match START.load(Ordering::Relaxed) {
        0 => {
            let at = map();
            START.store(at, Ordering::Relaxed);
            at
        }
        at => at,
    }
}

fn map() -> usize {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping, kept for the life of the process.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, prot, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED, "address space for the arena");
    at as usize
}

fn is_ours(at: *mut u8) -> bool {
    let start = START.load(Ordering::Relaxed);
    start != 0 && (start..start + BYTES).contains(&(at as usize))
}

/// Runs `act` with all allocations of this thread made in the arena.
pub fn inside<T>(act: impl FnOnce() -> T) -> T {
    let before = INSIDE.replace(true);
    let result = act();
    INSIDE.set(before);
    result
}

/// In a forked child: its allocations are its own business, also within [`inside`].
pub fn leave() {
    INSIDE.set(false);
}

/// Forgets all that was allocated.
///
/// # Safety
/// None of it is used any more.
pub unsafe fn clear() {
    USED.store(0, Ordering::Relaxed);
}

/// A copy of the arena's used part.
#[derive(Default)]
pub struct Copy(Vec<u8>);

impl Copy {
    /// Makes this a copy of the arena as it is now.
    pub fn take(&mut self) {
        let used = USED.load(Ordering::Relaxed);
        self.0.clear();
        // SAFETY: that much of the arena has been handed out, so it is mapped; only this thread
        // changes it.
        let now = unsafe { std::slice::from_raw_parts(start() as *const u8, used) };
        self.0.extend_from_slice(now);
    }

    /// Makes the arena what it was.
    ///
    /// # Safety
    /// No reference into the arena is used across this, only raw pointers.
    pub unsafe fn put_back(&self) {
        // SAFETY: mapped, and by the caller's contract nobody relies on what it holds.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), start() as *mut u8, self.0.len()) };
        USED.store(self.0.len(), Ordering::Relaxed);
    }
}
