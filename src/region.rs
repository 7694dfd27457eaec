//! The region: mapped before fork, shared by the master and all workers. One range of addresses,
//! backed by sealed memfds: one for all of it, or one for each of its [`Part`]s, so that a worker
//! can give up what it has no business to write.
//!
//! Nobody holds `&T` or `&mut T` over plain bytes that another process may write: shared words
//! are atomics behind [`Shared`], everything else is raw pointers and copies.
//!
//! Who maps what: the creator everything, and so do its children, until they attach
//! ([`Region::keep`]). From then on such a child has the router's part read-only, and the slabs, but for
//! those of its own cores; and of the others' parts nothing but reserved addresses: a stray store there is a
//! SIGSEGV.

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use nix::unistd::ftruncate;

use crate::fds::FdTable;
use crate::sync::{AtomicU32, Ordering};

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
}

/// A piece of the region with a memfd of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Bytes from the region's start, a multiple of the page size.
    pub start: usize,
    /// Bytes, a multiple of the page size.
    pub len: usize,
    /// What procfs shows of it.
    pub name: String,
}

/// What this process may do with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Access {
    /// Reserved addresses only.
    None = 0,
    Read = 1,
    Write = 2,
}

/// The mapped region. Unmapped when dropped; forked children drop their own copy.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<c_void>,
    len: usize,
    parts: Vec<Part>,
    fds: FdTable,
    /// By part: an [`Access`].
    access: Vec<AtomicU32>,
    /// By part: borrows of this process.
    users: Vec<AtomicU32>,
    /// The process that has restricted itself, if it is this one.
    restricted: AtomicU32,
    /// The process that is changing its mappings. Another's number is that of a parent that was
    /// doing so when it forked: no lock for the child.
    changing: AtomicU32,
}

// SAFETY: the mapping lives as long as the region and belongs to no thread.
unsafe impl Send for Region {}
// SAFETY: as above; what is in it is reached through atomics and raw pointers only.
unsafe impl Sync for Region {}

impl Region {
    /// A zeroed region of these parts, which lie one behind the other, each sealed against
    /// resizing. With `populate`, all of it is backed by memory now, or this fails.
    pub fn create(parts: Vec<Part>, populate: bool) -> Result<Self, OsError> {
        let make = |part: &Part| memfd(&part.name, part.len, populate);
        let fds: Result<Vec<OwnedFd>, OsError> = parts.iter().map(make).collect();
        Self::map(parts, FdTable::new(fds?))
    }

    /// The region whose parts are in these memfds; of parts without one, the addresses.
    fn map(parts: Vec<Part>, fds: FdTable) -> Result<Self, OsError> {
        let base = reserve_aligned(len_of(&parts))?;
        let region = Self::at_base(base, parts, fds);
        // On failure, dropping the region unmaps and closes what is there.
        region.open_all()?;
        Ok(region)
    }

    fn at_base(base: NonNull<c_void>, parts: Vec<Part>, fds: FdTable) -> Self {
        Self {
            base,
            len: len_of(&parts),
            access: parts.iter().map(|_| AtomicU32::new(0)).collect(),
            users: parts.iter().map(|_| AtomicU32::new(0)).collect(),
            restricted: AtomicU32::new(0),
            fds,
            parts,
            changing: AtomicU32::new(0),
        }
    }

    fn open_all(&self) -> Result<(), OsError> {
        let parts = 0..self.parts.len();
        let mut there = parts.filter(|&part| self.fds.get(part).is_some());
        there.try_for_each(|part| self.open(part))
    }

    /// What a process has of a region that it did not inherit: the parts in these memfds, as `keep`
    /// says. It keeps them for good, and the memfds are closed.
    pub fn partial(
        parts: Vec<Part>,
        memfds: impl IntoIterator<Item = Option<OwnedFd>>,
        keep: impl Fn(usize) -> Keep,
    ) -> Result<Self, OsError> {
        let region = Self::map(parts, FdTable::sparse(memfds))?;
        region.restrict(keep, |_| false)?;
        Ok(region)
    }

    /// The region whose parts are in these memfds, which it owns from now on. On failure they stay
    /// open, for another try.
    pub fn adopt(parts: Vec<Part>, memfds: &[RawFd]) -> Result<Self, OsError> {
        let base = reserve_aligned(len_of(&parts))?;
        // SAFETY: the caller hands them over: they came by exec, and nothing else here knows them.
        let own = |&fd: &RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
        let region = Self::at_base(base, parts, FdTable::new(memfds.iter().map(own)));
        if let Err(e) = region.open_all() {
            region.fds.forget();
            return Err(e);
        }
        Ok(region)
    }

    /// Bytes of a memfd.
    pub fn size_of(memfd: RawFd) -> Result<u64, OsError> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: fills a live local, or fails.
        if unsafe { libc::fstat(memfd, stat.as_mut_ptr()) } != 0 {
            return Err(OsError::last("fstat"));
        }
        // SAFETY: filled.
        Ok(unsafe { stat.assume_init() }.st_size as u64)
    }

    /// The first words of a memfd, each read once; zero where it is shorter.
    pub fn peek<const N: usize>(memfd: RawFd) -> Result<[u64; N], OsError> {
        let mut words = [0; N];
        // SAFETY: fills at most the bytes of a live local.
        let n = unsafe { libc::pread(memfd, words.as_mut_ptr().cast(), 8 * N, 0) };
        if n < 0 {
            return Err(OsError::last("pread"));
        }
        Ok(words)
    }

    /// The memfds, by part.
    pub fn memfds(&self) -> &FdTable {
        &self.fds
    }

    /// True when each part has a memfd of its own.
    pub fn is_split(&self) -> bool {
        self.parts.len() > 1
    }

    /// True when this process may write all of it.
    pub fn is_whole(&self) -> bool {
        (0..self.parts.len()).all(|part| self.access(part) == Access::Write)
    }

    /// Gives up, once for each process, what `keep` does not say. Memfds are closed but those that
    /// `hold` names. Does nothing when this process has done so before.
    pub fn restrict(
        &self,
        keep: impl Fn(usize) -> Keep,
        hold: impl Fn(usize) -> bool,
    ) -> Result<(), OsError> {
        let _turn = self.turn();
        let me = std::process::id();
        // Relaxed, here and below: changed in turn.
        if self.restricted.load(Ordering::Relaxed) == me {
            return Ok(());
        }
        // What a parent used is not this process's.
        self.users
            .iter()
            .for_each(|n| n.store(0, Ordering::Relaxed));
        let mut part = 0;
        while part < self.parts.len() {
            let goes = |&p: &usize| keep(p) == Keep::Nothing && self.access(p) != Access::None;
            let run = (part..self.parts.len()).take_while(goes).count();
            if run > 0 {
                self.close(part..part + run)?;
            } else if keep(part) == Keep::ToRead && self.access(part) != Access::None {
                // Also where only a piece can be written: that was a parent's.
                self.protect(part)?;
            }
            part += run.max(1);
        }
        self.fds.close_except(hold);
        // Not before: what failed half-way is done again at the next try.
        self.restricted.store(me, Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that this process can write a part, until it says [`Self::give_back`]. False
    /// when it has given up the part and closed the memfd.
    pub fn borrow(&self, part: usize) -> Result<bool, OsError> {
        let _turn = self.turn();
        if self.access(part) != Access::Write {
            if self.fds.get(part).is_none() {
                return Ok(false);
            }
            self.open(part)?;
        }
        // Relaxed: changed in turn.
        self.users[part].fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// The end of a [`Self::borrow`]. A process that has restricted itself gives the part up when
    /// nothing in it uses the part any more.
    pub fn give_back(&self, part: usize) {
        let _turn = self.turn();
        // Relaxed, twice: changed in turn.
        let was_last = self.users[part].fetch_sub(1, Ordering::Relaxed) == 1;
        // What could not be opened again stays: a worker's cores may detach and attach.
        let can_come_back = self.fds.get(part).is_some();
        let is_restricted = self.restricted.load(Ordering::Relaxed) == std::process::id();
        if was_last && can_come_back && is_restricted {
            // Failing leaves a mapping that nobody uses.
            let _ = self.close(part..part + 1);
        }
    }

    /// Whether this process can write a piece of a part that it otherwise only reads; does nothing where it
    /// can write all of it. `piece` is counted from the region's start, in whole pages.
    pub fn allow(&self, part: usize, piece: Range<usize>, write: bool) -> Result<(), OsError> {
        let _turn = self.turn();
        if self.access(part) == Access::Write || piece.is_empty() {
            return Ok(());
        }
        let (start, end) = (
            self.parts[part].start,
            self.parts[part].start + self.parts[part].len,
        );
        assert!(
            start <= piece.start && piece.end <= end,
            "outside of the part"
        );
        let rights = match write {
            true => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            false => ProtFlags::PROT_READ,
        };
        let at = self.base.map_addr(|at| at.saturating_add(piece.start));
        // SAFETY: this region's own mapping, of a memfd that was open for writing; whoever writes there
        // has the piece to itself.
        unsafe { mprotect(at, piece.len(), rights) }.map_err(OsError::of("mprotect"))
    }

    fn access(&self, part: usize) -> Access {
        // Relaxed: changed by this process alone, before it uses the part.
        match self.access[part].load(Ordering::Relaxed) {
            0 => Access::None,
            1 => Access::Read,
            _ => Access::Write,
        }
    }

    fn set_access(&self, part: usize, access: Access) {
        // Relaxed: as above.
        self.access[part].store(access as u32, Ordering::Relaxed);
    }

    fn open(&self, part: usize) -> Result<(), OsError> {
        let fd = self.fds.get(part).ok_or(OsError {
            call: "mmap",
            errno: libc::EBADF,
        })?;
        // SAFETY: the table owns it, and closes it only in `restrict`, whose turn it is not.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        let (at, len) = self.range(part..part + 1);
        // SAFETY: the range is this region's own reservation.
        unsafe { mmap(Some(at), len, rights, flags, fd, 0) }.map_err(OsError::of("mmap"))?;
        self.set_access(part, Access::Write);
        Ok(())
    }

    fn protect(&self, part: usize) -> Result<(), OsError> {
        let (at, len) = self.range(part..part + 1);
        let at = self.base.map_addr(|_| at);
        // SAFETY: this region's own mapping, which this process only reads from now on.
        unsafe { mprotect(at, len.get(), ProtFlags::PROT_READ) }
            .map_err(OsError::of("mprotect"))?;
        self.set_access(part, Access::Read);
        Ok(())
    }

    fn close(&self, parts: Range<usize>) -> Result<(), OsError> {
        let (at, len) = self.range(parts.clone());
        reserve(Some(at), len.get())?;
        // Not before: what could not be given up is tried again.
        parts.for_each(|part| self.set_access(part, Access::None));
        Ok(())
    }

    /// Address and bytes of consecutive parts.
    fn range(&self, parts: Range<usize>) -> (NonZeroUsize, NonZeroUsize) {
        let parts = &self.parts[parts];
        let at = self.base.addr().saturating_add(parts[0].start);
        let len = parts.iter().map(|part| part.len).sum();
        (at, NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN))
    }

    /// Waits until no other thread of this process changes mappings: two that attach at once.
    fn turn(&self) -> Turn<'_> {
        let me = std::process::id();
        loop {
            // Relaxed: a guess, which the CAS validates.
            let seen = self.changing.load(Ordering::Relaxed);
            let is_mine = seen != me
                // SYNC(region.turn): pairs with the store in `Turn::drop`.
                && self.changing.compare_exchange(seen, me, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if is_mine {
                return Turn(&self.changing);
            }
            std::thread::yield_now();
        }
    }

    /// Asks for huge pages in a range of the first part, as far as it holds whole ones, and, if it is
    /// backed already, for what is there to be put together. The kernel may refuse: then the pages are
    /// small, and all is as before.
    pub fn advise_huge(&self, range: Range<usize>, is_backed: bool) {
        const COLLAPSE: libc::c_int = 25; // MADV_COLLAPSE, since Linux 6.1
        let start = range.start.next_multiple_of(HUGE);
        let end = range.end.min(self.parts[0].len) / HUGE * HUGE;
        if start >= end {
            return;
        }
        let at = self.at(start).cast::<c_void>();
        // SAFETY: the region's own mapping; what is in it stays as it is.
        unsafe {
            libc::madvise(at, end - start, libc::MADV_HUGEPAGE);
            if is_backed {
                libc::madvise(at, end - start, COLLAPSE);
            }
        }
    }

    /// Bytes of the whole range.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The byte at `offset`.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len(), "offset beyond the region");
        // SAFETY: just checked.
        unsafe { self.base.as_ptr().cast::<u8>().add(offset) }
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

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this region's own range; whoever uses it holds the region. Cannot fail for a
        // range that was mapped whole.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

/// What a process keeps of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    ToRead,
    AsItIs,
}

/// One thread's turn to change mappings.
struct Turn<'a>(&'a AtomicU32);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // SYNC(region.turn): pairs with the CAS in `turn`.
        self.0.store(0, Ordering::Release);
    }
}

fn len_of(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.len).sum()
}

/// A sealed memfd.
pub(crate) fn memfd(name: &str, len: usize, populate: bool) -> Result<OwnedFd, OsError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let name = CString::new(name).unwrap_or_default();
    let fd = memfd_create(name.as_c_str(), flags).map_err(OsError::of("memfd_create"))?;
    let len = len as i64;
    ftruncate(fd.as_fd(), len).map_err(OsError::of("ftruncate"))?;
    if populate {
        fallocate(fd.as_fd(), FallocateFlags::empty(), 0, len).map_err(OsError::of("fallocate"))?;
    }
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(fd.as_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(OsError::of("fcntl(F_ADD_SEALS)"))?;
    Ok(fd)
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Addresses without memory, from a multiple of a huge page on: offsets in the first memfd are then
/// where huge pages of it can be mapped.
fn reserve_aligned(len: usize) -> Result<NonNull<c_void>, OsError> {
    let all = reserve(None, len + HUGE)?;
    let before = all.addr().get().next_multiple_of(HUGE) - all.addr().get();
    // SAFETY: within what has just been reserved; all of it but `len` bytes is given back. It cannot
    // fail for want of anything but mappings, and then the rest is only addresses.
    unsafe {
        let at = all.byte_add(before);
        if before > 0 {
            let _ = munmap(all, before);
        }
        if before < HUGE {
            let _ = munmap(at.byte_add(len), HUGE - before);
        }
        Ok(at)
    }
}

/// Addresses without memory: anywhere, or in place of what is mapped at `at`, which must be a
/// region's own.
fn reserve(at: Option<NonZeroUsize>, len: usize) -> Result<NonNull<c_void>, OsError> {
    let fixed = at.map_or(MapFlags::empty(), |_| MapFlags::MAP_FIXED);
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | fixed;
    let len = NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN);
    // SAFETY: a fresh mapping, or one over a part that its region gives up.
    unsafe { mmap_anonymous(at, len, ProtFlags::PROT_NONE, flags) }.map_err(OsError::of("mmap"))
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
