//! The region: one sealed memfd, mapped before fork, shared by the master and all workers.
//!
//! Nobody holds `&T` or `&mut T` over plain bytes that another process may write: shared words
//! are atomics behind [`Shared`], everything else is raw pointers and copies.

use std::fs::File;
use std::ops::Deref;
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A system call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OsError {
    pub call: &'static str,
    pub errno: i32,
}

impl OsError {
    /// For `map_err`: names the call.
    pub fn of(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self {
            call,
            errno: errno as i32,
        }
    }

    /// The calling thread's errno after `call` failed.
    pub fn last(call: &'static str) -> Self {
        Self::of(call)(Errno::last())
    }

    fn io(call: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |e| Self {
            call,
            errno: e.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// The mapped region. Unmapped when dropped; forked children drop their own copy.
#[derive(Debug)]
pub(crate) struct Region {
    map: MmapRaw,
}

impl Region {
    /// A zeroed region of `bytes`, sealed against resizing. With `populate`, all of it is backed
    /// by memory now, or this fails.
    pub fn create(bytes: usize, populate: bool) -> Result<Self, OsError> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(c"corecast", flags).map_err(OsError::of("memfd_create"))?;
        let file = File::from(fd);
        file.set_len(bytes as u64)
            .map_err(OsError::io("ftruncate"))?;
        if populate {
            fallocate(&file, FallocateFlags::empty(), 0, bytes as i64)
                .map_err(OsError::of("fallocate"))?;
        }
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(OsError::of("fcntl(F_ADD_SEALS)"))?;
        let map = MmapOptions::new()
            .len(bytes)
            .map_raw(&file)
            .map_err(OsError::io("mmap"))?;
        Ok(Self { map })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// The byte at `offset`.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len(), "offset beyond the region");
        // SAFETY: just checked.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }

    /// The shared words of type `T` at `offset`.
    ///
    /// # Safety
    /// `T` consists of atomics only, `offset` is where the layout has a `T`, and the result is
    /// not used after the region is dropped.
    pub unsafe fn words<T: Sync>(&self, offset: usize) -> Shared<T> {
        assert!(offset + size_of::<T>() <= self.len());
        let at = self.at(offset).cast::<T>();
        debug_assert!(at.is_aligned());
        // SAFETY: a pointer into a mapping is not null.
        Shared(unsafe { NonNull::new_unchecked(at) })
    }
}

/// A reference to atomics in the region. Valid while the region is mapped: every holder also
/// holds the `Arc` that keeps it.
pub(crate) struct Shared<T>(NonNull<T>);

impl<T> Shared<T> {
    /// The `index`-th `T` behind this one.
    ///
    /// # Safety
    /// The layout has an array of more than `index` `T`s here.
    #[inline]
    pub unsafe fn nth(self, index: usize) -> Self {
        // SAFETY: the caller's contract keeps this within the mapping.
        Self(unsafe { self.0.add(index) })
    }

    /// A reference to an atomic that is mapped elsewhere.
    ///
    /// # Safety
    /// It stays mapped as long as the result is used, and `T` is all atomics.
    pub unsafe fn from_ptr(at: NonNull<T>) -> Self {
        Self(at)
    }

    /// A test's stand-in for words of a region.
    #[cfg(test)]
    pub fn of(value: &'static T) -> Self {
        Self(NonNull::from(value))
    }

    /// The reference itself, for as long as the holder keeps the region mapped.
    #[inline]
    pub fn get<'a>(self) -> &'a T {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `Region::words`: T is all atomics, so aliasing with other processes is allowed;
        // it is mapped as long as the holder lives.
        unsafe { self.0.as_ref() }
    }
}

// SAFETY: a Shared is a `&T` of unbounded lifetime, and T is Sync.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

/// Bytes of memory that can be had now, from the kernel's own estimate; None if unknown.
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|l| l.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some((field("MemAvailable:")? + field("SwapFree:").unwrap_or(0)) * 1024)
}

/// File descriptors that this process can still open.
pub(crate) fn available_fds() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64);
    limit.saturating_sub(open)
}

/// Bytes of address space that this process may map.
pub(crate) fn address_space() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft)
}
