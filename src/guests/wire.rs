//! What a hub and its guests say to each other: packets of eight words, little-endian.
//!
//! ```text
//!          0         1         2        3           4      5    6            7
//! hello  | MAGIC   | PROTOCOL | region version | 0    | 0    | 0          | 0 | 0 |
//! answer | MAGIC   | PROTOCOL | what     | a          | b    | pid | descriptors | 0 |
//! ```
//! A hello is the guest's only packet. The answer is one packet, or, when a seat has more
//! descriptors than one packet can carry, several with the same words and the next descriptors.
//! After that nobody says anything more: the connection's end is the guest's.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::shared::{MAGIC, VERSION};

/// Version of these packets.
pub(crate) const PROTOCOL: u64 = 1;
const WORDS: usize = 8;
const BYTES: usize = 8 * WORDS;
/// Descriptors in one packet: as many as the kernel takes, so that none is ever cut off.
pub(crate) const MOST_FDS: usize = 253;

/// A hub's answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Slots `first .. first + slots` are the guest's, to be claimed with this pid.
    Seat {
        first: u64,
        slots: u64,
        pid: u32,
        /// Descriptors in all packets together.
        fds: u64,
    },
    /// All of so many seats are taken.
    Full { seats: u64 },
    /// The guest is of this user, and must be of that.
    OtherUser { uid: u64, expected: u64 },
    /// The hub speaks another version: of these packets, of the region.
    Version { protocol: u64, region: u64 },
    /// The hub's process could not: an errno.
    Failed { errno: u64 },
}

/// What a packet held.
#[derive(Debug)]
pub(crate) struct Packet {
    pub words: [u64; WORDS],
    pub fds: Vec<OwnedFd>,
}

/// The guest's packet.
pub(crate) fn hello() -> [u64; WORDS] {
    [MAGIC, PROTOCOL, VERSION, 0, 0, 0, 0, 0]
}

/// What a hub thinks of a hello: None if it is none.
pub(crate) fn check_hello(words: &[u64; WORDS]) -> Option<Result<(), Answer>> {
    let is_known = words[1] == PROTOCOL && words[2] == VERSION;
    let refusal = Answer::Version {
        protocol: PROTOCOL,
        region: VERSION,
    };
    (words[0] == MAGIC).then_some(if is_known { Ok(()) } else { Err(refusal) })
}

impl Answer {
    pub fn to_words(self) -> [u64; WORDS] {
        let (what, a, b, pid, fds) = match self {
            Self::Seat {
                first,
                slots,
                pid,
                fds,
            } => (1, first, slots, pid.into(), fds),
            Self::Full { seats } => (2, seats, 0, 0, 0),
            Self::OtherUser { uid, expected } => (3, uid, expected, 0, 0),
            Self::Version { protocol, region } => (4, protocol, region, 0, 0),
            Self::Failed { errno } => (5, errno, 0, 0, 0),
        };
        [MAGIC, PROTOCOL, what, a, b, pid, fds, 0]
    }

    /// None for what no hub says.
    pub fn from_words(words: &[u64; WORDS]) -> Option<Self> {
        let &[magic, _, what, a, b, pid, fds, _] = words;
        if magic != MAGIC {
            return None;
        }
        Some(match what {
            1 => Self::Seat {
                first: a,
                slots: b,
                pid: u32::try_from(pid).ok()?,
                fds,
            },
            2 => Self::Full { seats: a },
            3 => Self::OtherUser {
                uid: a,
                expected: b,
            },
            4 => Self::Version {
                protocol: a,
                region: b,
            },
            5 => Self::Failed { errno: a },
            _ => return None,
        })
    }
}

/// Sends one packet; never waits.
pub(crate) fn send(to: BorrowedFd<'_>, words: &[u64; WORDS], fds: &[RawFd]) -> nix::Result<()> {
    let mut bytes = [0; BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let parts = [std::io::IoSlice::new(&bytes)];
    sendmsg::<()>(to.as_raw_fd(), &parts, rights, flags, None).map(|_| ())
}

/// Takes one packet with its descriptors; None at the end of the connection. Never waits. What is
/// no packet of eight words is `EBADMSG`.
pub(crate) fn receive(from: BorrowedFd<'_>) -> nix::Result<Option<Packet>> {
    // One byte more than a packet has: a longer one shows.
    let (mut bytes, mut room) = ([0; BYTES + 1], nix::cmsg_space!([RawFd; MOST_FDS]));
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    let (len, is_cut) = (got.bytes, got.flags.contains(MsgFlags::MSG_CTRUNC));
    let mut fds = Vec::new();
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just made them for this process, and nobody else knows them.
            let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
            fds.extend(numbers.into_iter().map(own));
        }
    }
    if len == 0 {
        return Ok(None);
    }
    words_of(&bytes[..len])
        .filter(|_| !is_cut)
        .map(|words| Some(Packet { words, fds }))
        .ok_or(Errno::EBADMSG)
}

/// Takes one packet, and none of the descriptors that somebody may have sent with it.
pub(crate) fn receive_words(from: BorrowedFd<'_>) -> nix::Result<Option<[u64; WORDS]>> {
    let mut bytes = [0; BYTES + 1];
    let len = nix::sys::socket::recv(from.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT)?;
    match len {
        0 => Ok(None),
        _ => words_of(&bytes[..len]).map(Some).ok_or(Errno::EBADMSG),
    }
}

fn words_of(bytes: &[u8]) -> Option<[u64; WORDS]> {
    let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(chunk.try_into().ok()?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_read_as_they_were_written() {
        let seat = Answer::Seat {
            first: 4,
            slots: 2,
            pid: 77,
            fds: 6,
        };
        let (uid, expected) = (1000, 33);
        let (protocol, region) = (1, 2);
        for answer in [
            seat,
            Answer::Full { seats: 9 },
            Answer::OtherUser { uid, expected },
            Answer::Version { protocol, region },
            Answer::Failed { errno: 24 },
        ] {
            assert_eq!(Answer::from_words(&answer.to_words()), Some(answer));
        }
    }

    #[test]
    fn nonsense_is_no_answer_and_no_hello() {
        for words in [[0; WORDS], [u64::MAX; WORDS], [MAGIC; WORDS]] {
            assert_eq!(Answer::from_words(&words), None);
        }
        assert_eq!(check_hello(&[0; WORDS]), None);
        assert_eq!(check_hello(&hello()), Some(Ok(())));
        let mut newer = hello();
        newer[2] += 1;
        assert!(matches!(
            check_hello(&newer),
            Some(Err(Answer::Version { .. }))
        ));
    }
}
