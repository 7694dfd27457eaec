//! Peers that mean no good, or do not know what they do: garbage, silence, floods, other users.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::*;
use crate::common::{alone, open_fds, say};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
    socket,
};

const WORDS: usize = 8;

/// A plain connection to the hub's socket.
fn peer(name: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    let address = UnixAddr::new_abstract(&name.as_bytes()[1..]).expect("a name");
    connect(fd.as_raw_fd(), &address).expect("somebody listens");
    fd
}

fn tell(peer: &OwnedFd, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
    let parts = [std::io::IoSlice::new(bytes)];
    // It may have hung up already.
    let _ = sendmsg::<()>(
        peer.as_raw_fd(),
        &parts,
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
}

fn packet(words: [u64; WORDS]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What it hears: the words of a packet, or None when the hub has hung up.
fn hears(peer: &OwnedFd) -> Option<Vec<u64>> {
    let mut bytes = [0; 256];
    let got = (0..2).find_map(|_| recv(peer.as_raw_fd(), &mut bytes, MsgFlags::empty()).ok());
    let bytes = &bytes[..got.unwrap_or(0)];
    let words = bytes
        .chunks_exact(8)
        .map(|w| u64::from_le_bytes(w.try_into().expect("8")));
    (!bytes.is_empty()).then(|| words.collect())
}

/// A hello that the hub takes: its own versions it tells to who has others.
fn good_hello(name: &str) -> Vec<u8> {
    let stranger = peer(name);
    tell(&stranger, &packet([magic(), 0, 0, 0, 0, 0, 0, 0]), &[]);
    let answer = hears(&stranger).expect("told why");
    assert_eq!(answer[..3], [magic(), answer[3], 4]);
    packet([magic(), answer[3], answer[4], 0, 0, 0, 0, 0])
}

fn magic() -> u64 {
    u64::from_le_bytes(*b"corecast")
}

#[test]
fn garbage_is_hung_up_on_and_costs_the_master_nothing() {
    let _watchdog = Watchdog::new(LONG);
    let _alone = alone();
    let (hub, name) = listening(|_| {});
    let _master = hub.start().expect("a master");
    let null = std::fs::File::open("/dev/null").expect("there is one");
    let before = open_fds();
    let hello = good_hello(&name);
    let garbage: [(&[u8], &[RawFd]); 7] = [
        (b"", &[]),
        (b"GET / HTTP/1.1\r\n\r\n", &[]),
        (&[0; 64], &[]),
        (&[0xff; 64], &[null.as_raw_fd(); 100]),
        (&hello[..63], &[]),
        (&[hello.as_slice(), b"x"].concat(), &[]),
        (&[0x63; 60_000], &[]),
    ];
    for (bytes, fds) in garbage {
        let peer = peer(&name);
        tell(&peer, bytes, fds);
        assert_eq!(hears(&peer), None, "{} bytes", bytes.len());
    }
    for version in [[2, 1], [1, 99], [u64::MAX, u64::MAX]] {
        let peer = peer(&name);
        tell(
            &peer,
            &packet([magic(), version[0], version[1], 0, 0, 0, 0, 0]),
            &[],
        );
        let answer = hears(&peer).expect("told why");
        assert_eq!((answer[0], answer[2]), (magic(), 4));
        let own = packet([magic(), answer[3], answer[4], 0, 0, 0, 0, 0]);
        assert_eq!(own, hello, "its own versions");
        assert_eq!(hears(&peer), None);
    }
    wait_until("nothing is left open", || open_fds() == before);
    fork(|| drop(guest(&name))).join();
}

/// A guest that goes on talking after its hello is not listened to; its end is still noticed.
#[test]
fn whoever_talks_on_is_not_listened_to() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(one_seat);
    let _master = hub.start().expect("a master");
    for _ in 0..3 {
        let peer = peer(&name);
        let hello = good_hello(&name);
        tell(&peer, &hello, &[]);
        let seat = hears(&peer).expect("a seat");
        assert_eq!(seat[2..5], [1, 0, 1], "slot 0 alone");
        assert_eq!(seat[5], u64::from(std::process::id()));
        (0..5).for_each(|_| tell(&peer, &hello, &[]));
        let full = Hub::connect(&name, Duration::from_millis(1)).expect_err("taken");
        assert!(matches!(
            full,
            ConnectError::NoFreeSeat { .. } | ConnectError::Timeout
        ));
        drop(peer);
        drop(guest(&name)); // waits until the seat is free
    }
}

#[test]
fn silent_peers_are_limited_and_do_not_keep_others_out() {
    let _watchdog = Watchdog::new(LONG);
    let _alone = alone();
    let (hub, name) = listening(|_| {});
    let _master = hub.start().expect("a master");
    let before = open_fds();
    let silent: Vec<OwnedFd> = (0..300).map(|_| peer(&name)).collect();
    fork(|| {
        let mut core = guest(&name).attach_any().expect("a core");
        core.join("news").expect("joined");
        core.send("news", b"hello").expect("sent");
        assert_eq!(next(&mut core).body, b"hello");
    })
    .join();
    // The master keeps 16 of them at most, besides what this process has itself.
    wait_until("the rest is hung up on", || open_fds() <= before + 300 + 16);
    drop(silent);
    wait_until("nothing is left open", || open_fds() == before);
}

/// Comes as another user, in a process of its own.
fn as_nobody(body: impl FnOnce()) -> Option<Child> {
    if !nix::unistd::geteuid().is_root() {
        say("skipped: only root can become another user\n");
        return None;
    }
    Some(fork(|| {
        let nobody = nix::unistd::Uid::from_raw(65_534);
        nix::unistd::setuid(nobody).expect("root may");
        body();
    }))
}

#[test]
fn other_users_are_refused_and_told_so_and_root_is_not() {
    let _watchdog = Watchdog::new(LONG);
    let own = nix::unistd::geteuid().as_raw();
    let (hub, name) = listening(|_| {});
    let _master = hub.start().expect("a master");
    let stranger = as_nobody(|| {
        let (uid, expected) = (65_534, own.into());
        let error = Hub::connect(&name, LONG).expect_err("refused");
        assert_eq!(error, ConnectError::Refused { uid, expected });
        assert!(error.to_string().contains("65534"), "{error}");
    });
    stranger.into_iter().for_each(Child::join);
    // The other way round: root comes to the hub of another; another does not trust him.
    let (theirs, words) = (super::name("theirs"), shared_words(1));
    let host = as_nobody(|| {
        let _hub_and_master = serving(&theirs, |_| {});
        reaches(&words[0], 1);
    });
    if let Some(host) = host {
        drop(guest(&theirs));
        let third = fork(|| {
            nix::unistd::setuid(nix::unistd::Uid::from_raw(65_533)).expect("root may");
            let error = Hub::connect(&theirs, LONG).expect_err("not trusted");
            let (uid, own) = (65_534, 65_533);
            assert_eq!(error, ConnectError::OtherUsersHub { uid, own });
        });
        third.join();
        words[0].store(1, Ordering::SeqCst);
        host.join();
    }
}

/// What listens there is no hub: each nonsense is an error of its own, and nothing is mapped.
#[test]
fn a_guest_believes_nothing_that_does_not_fit() {
    let _watchdog = Watchdog::new(LONG);
    let name = name("false-host");
    let flags = SockFlag::SOCK_CLOEXEC;
    let host = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    let address = UnixAddr::new_abstract(&name.as_bytes()[1..]).expect("a name");
    nix::sys::socket::bind(host.as_raw_fd(), &address).expect("free");
    let backlog = nix::sys::socket::Backlog::new(8).expect("small");
    nix::sys::socket::listen(&host, backlog).expect("listens");
    let null = std::fs::File::open("/dev/null").expect("there is one");
    let seat = |first, slots, fds| packet([magic(), 1, 1, first, slots, 7, fds, 0]);
    let (damaged, no_hub) = (ConnectError::Damaged, ConnectError::NoHub);
    let fds = [null.as_raw_fd(); 5];
    for (said, fds, error) in [
        (vec![1; 5], &fds[..0], no_hub),
        (packet([0; WORDS]), &fds[..], no_hub),
        (seat(0, 1, 5), &fds[..], damaged),  // of the wrong kind
        (seat(0, 1, 3), &fds[..], damaged),  // more than it says
        (seat(0, 1, 9), &fds[..0], damaged), // fewer
        (seat(0, 0, 5), &fds[..], damaged),
        (seat(0, 1 << 40, 5), &fds[..], damaged),
        (seat(u64::MAX, 1, 5), &fds[..], damaged),
        (packet([magic(), 1, 5, 24, 0, 0, 0, 0]), &fds[..0], os(24)),
    ] {
        let (name, before) = (name.clone(), mappings());
        let child = fork(move || {
            let got = Hub::connect(&name, LONG).expect_err("not a hub");
            assert_eq!(got, error);
            assert_eq!(mappings(), before);
        });
        let guest = nix::sys::socket::accept(host.as_raw_fd()).expect("it comes");
        // SAFETY: just accepted, and nobody else's.
        let guest = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(guest) };
        tell(&guest, &said, fds);
        // A second packet without descriptors, for who waits for more of them.
        tell(&guest, &said, &[]);
        child.join();
    }
    let gone = fork(|| {
        assert_eq!(Hub::connect(&name, LONG).err(), Some(ConnectError::HungUp));
    });
    let guest = nix::sys::socket::accept(host.as_raw_fd()).expect("it comes");
    nix::unistd::close(guest).expect("closed");
    gone.join();
}

fn os(errno: i32) -> ConnectError {
    let call = "passing descriptors, in the hub's process,";
    ConnectError::Os { call, errno }
}

/// They wait at the socket until the master's process has descriptors for them.
#[test]
fn who_comes_while_descriptors_have_run_out_gets_in_later() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let _watchdog = Watchdog::new(LONG);
    let (name, words) = (super::name("no-fds"), shared_words(1));
    let came = {
        let name = name.clone();
        fork(move || {
            reaches(&words[0], 1);
            let mut core = guest(&name).attach_any().expect("a core");
            core.join("news").expect("joined");
            words[0].store(3, Ordering::SeqCst);
        })
    };
    fork(|| {
        let _hub_and_master = serving(&name, one_seat);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("lowered");
        words[0].store(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(words[0].load(Ordering::SeqCst), 1, "it cannot be in");
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("raised");
        reaches(&words[0], 3);
    })
    .join();
    came.join();
}
