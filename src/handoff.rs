//! Handing a hub on to the next program: across exec only open descriptors survive, so their
//! numbers travel in a line of text, as an argument or in the environment.
//!
//! ```text
//! corecast1:<memfds>:<router's eventfd>:<cores' eventfds>      corecast1:4-9,12:13:14-20
//! ```
//! The text is never trusted: each number must be an open descriptor of the right kind (a memfd
//! sealed against resizing, an eventfd), and none may come twice; the rest is in the region, which
//! is checked like any other.

use std::fmt::Write;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};

use crate::error::AdoptError;
use crate::fds::FdTable;
use crate::region::OsError;

/// Begins every handoff. The number is that of the format.
const PREFIX: &str = "corecast1";
/// More than a hub can have: each slot has at most two.
const MOST_FDS: usize = 3 * crate::router::MAX_SLOTS;

/// The descriptors of a hub, by number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handoff {
    pub memfds: Vec<RawFd>,
    pub router: RawFd,
    pub cores: Vec<RawFd>,
}

impl Handoff {
    /// The text for descriptors that this process still has; None if it has closed some.
    pub fn of(memfds: &FdTable, router: RawFd, cores: &FdTable) -> Option<Self> {
        Some(Self {
            memfds: memfds.all()?,
            router,
            cores: cores.all()?,
        })
    }

    /// Reads the text; checks only its form.
    pub fn parse(text: &str) -> Result<Self, AdoptError> {
        let mut fields = text.trim_end().split(':');
        let mut next = || fields.next().ok_or(AdoptError::Malformed);
        if next()? != PREFIX {
            return Err(AdoptError::Malformed);
        }
        let (memfds, router, cores) = (numbers(next()?)?, numbers(next()?)?, numbers(next()?)?);
        let &[router] = router.as_slice() else {
            return Err(AdoptError::Malformed);
        };
        let handoff = Self {
            memfds,
            router,
            cores,
        };
        let mut all: Vec<RawFd> = handoff.all().collect();
        all.sort_unstable();
        let is_repeated = all.windows(2).any(|pair| pair[0] == pair[1]);
        if fields.next().is_some() || is_repeated {
            return Err(AdoptError::Malformed);
        }
        Ok(handoff)
    }

    /// Checks that every descriptor is open and of the right kind.
    pub fn check(&self) -> Result<(), AdoptError> {
        self.memfds.iter().try_for_each(|&fd| check_memfd(fd))?;
        let mut eventfds = self.cores.iter().chain([&self.router]);
        eventfds.try_for_each(|&fd| check_eventfd(fd))
    }

    /// Whether the next program gets the descriptors.
    pub fn survive_exec(&self, survive: bool) -> Result<(), OsError> {
        let flags = if survive {
            FdFlag::empty()
        } else {
            FdFlag::FD_CLOEXEC
        };
        for fd in self.all() {
            fcntl(borrow(fd), FcntlArg::F_SETFD(flags)).map_err(OsError::of("fcntl(F_SETFD)"))?;
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = RawFd> {
        let lists = self.memfds.iter().chain(&self.cores);
        lists.chain([&self.router]).copied()
    }
}

/// A memfd that cannot be resized; what is no memfd has no seals to get.
pub(crate) fn check_memfd(fd: RawFd) -> Result<(), AdoptError> {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    let has = match fcntl(borrow(fd), FcntlArg::F_GET_SEALS) {
        Ok(has) => has,
        Err(Errno::EBADF | Errno::EINVAL) => return Err(AdoptError::Descriptor { fd }),
        Err(e) => return Err(OsError::of("fcntl(F_GET_SEALS)")(e).into()),
    };
    let is_sealed = SealFlag::from_bits_truncate(has).contains(seals);
    is_sealed.then_some(()).ok_or(AdoptError::Descriptor { fd })
}

/// An eventfd.
pub(crate) fn check_eventfd(fd: RawFd) -> Result<(), AdoptError> {
    let wrong = AdoptError::Descriptor { fd };
    match std::fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(link) if link.as_os_str() == "anon_inode:[eventfd]" => Ok(()),
        Ok(_) => Err(wrong),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(wrong),
        Err(e) => Err(AdoptError::Os {
            call: "readlink(/proc/self/fd)",
            errno: e.raw_os_error().unwrap_or(libc::EIO),
        }),
    }
}

/// For system calls that cope with a number that is not open.
fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: not -1 (`numbers` takes no sign); used for fcntl alone, which reports what is not
    // open.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// "4-6,9" as 4, 5, 6, 9.
fn numbers(text: &str) -> Result<Vec<RawFd>, AdoptError> {
    let mut all = Vec::new();
    let number = |text: &str| -> Result<RawFd, AdoptError> {
        let is_plain = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_plain);
        number.ok_or(AdoptError::Malformed)
    };
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || (last - first) as usize + all.len() >= MOST_FDS {
            return Err(AdoptError::Malformed);
        }
        all.extend(first..=last);
    }
    Ok(all)
}

impl std::fmt::Display for Handoff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (memfds, cores) = (ranges(&self.memfds), ranges(&self.cores));
        write!(f, "{PREFIX}:{memfds}:{}:{cores}", self.router)
    }
}

/// The inverse of [`numbers`].
fn ranges(all: &[RawFd]) -> String {
    let mut text = String::new();
    for run in all.chunk_by(|a, b| a + 1 == *b) {
        let separator = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = match run {
            [only] => write!(text, "{separator}{only}"),
            _ => write!(text, "{separator}{}-{}", run[0], run[run.len() - 1]),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handoff_reads_as_it_was_written() {
        let handoff = Handoff {
            memfds: vec![4, 5, 6, 9],
            router: 10,
            cores: vec![12, 11, 20],
        };
        let text = handoff.to_string();
        assert_eq!(text, "corecast1:4-6,9:10:12,11,20");
        assert_eq!(Handoff::parse(&text), Ok(handoff));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "corecast1",
            "corecast2:3:4:5",
            "corecast1:3:4",
            "corecast1:3:4:5:6",
            "corecast1:3:4,6:5",
            "corecast1:3:4:4",
            "corecast1:-1:4:5",
            "corecast1:+3:4:5",
            "corecast1::4:5",
            "corecast1:3:4:9-5",
            "corecast1:0-2000000000:4:5",
            "corecast1:3:4:99999999999",
        ] {
            assert_eq!(Handoff::parse(text), Err(AdoptError::Malformed), "{text}");
        }
    }

    #[test]
    fn descriptors_of_another_kind_are_refused() {
        for text in ["corecast1:0:1:2", "corecast1:1048570:1048571:1048572"] {
            let handoff = Handoff::parse(text).expect("well-formed");
            assert!(matches!(
                handoff.check(),
                Err(AdoptError::Descriptor { .. })
            ));
        }
    }
}
