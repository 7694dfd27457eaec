//! A server that reloads under full load: it replaces itself by exec again and again, whatever its
//! master's thread is in the middle of, and the next program adopts the hub. Its workers, children of
//! all its programs, notice nothing: everything comes once, whole, and to both receivers in one order.
//!
//! An exec ends all other threads of a process where they are, so each reload is the death of a master
//! at some instruction of whatever it does. Where the master is a process of its own, it is killed at
//! such a moment, some while they still adopt the hub, and the server that has made the hub replaces
//! itself after that. `CORECAST_RELOADS` makes it more than a few.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::{LONG, Rng, Watchdog, fork, wait_until};
use corecast::{Core, Hub, MasterThread, Overflow};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

const NAME: &str = "a_server_that_reloads_in_the_middle_of_anything_loses_nothing";
/// What each program tells the next: its number, and how to find the hub.
const TOLD: &str = "CORECAST_TEST_RELOAD";
const SENDERS: usize = 2;
const RECEIVERS: usize = 2;
const WORKERS: usize = SENDERS + RECEIVERS;
const RELOADS: u64 = 150;

/// Where the master is, and who else does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A thread of the server, ended by its exec.
    Thread,
    /// The same, and the workers help.
    Assist,
    /// A child of the server, killed before its exec.
    Child,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Thread, Self::Assist, Self::Child];
}

/// What all processes share, over exec too: a memfd of words.
#[derive(Clone, Copy)]
struct Board(&'static [AtomicU64]);

macro_rules! words {
    ($($name:ident $at:expr,)+) => {$(
        fn $name(self) -> &'static AtomicU64 {
            &self.0[$at]
        }
    )+};
}

impl Board {
    const BYTES: usize = 4096;

    fn map(memfd: RawFd) -> Self {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping of a memfd of that size, kept for the life of the process; zero is a
        // valid atomic.
        unsafe {
            let null = std::ptr::null_mut();
            let at = libc::mmap(null, Self::BYTES, rights, libc::MAP_SHARED, memfd, 0);
            assert_ne!(at, libc::MAP_FAILED, "mmap");
            Self(std::slice::from_raw_parts(at.cast(), Self::BYTES / 8))
        }
    }

    words! {
        ready 0,
        stop 1,
        reloads 2,
        // Descriptors of the programs after the first.
        fewest 3,
        most 4,
        lost 6,
        violations 7,
        // Masters killed, and those of them that were while they still adopted the hub.
        kills 8,
        young 9,
    }

    fn pid(self, worker: usize) -> &'static AtomicU64 {
        &self.0[16 + worker]
    }

    /// Messages of a sender so far; the last word on it when it has ended.
    fn sent(self, sender: usize) -> &'static AtomicU64 {
        &self.0[32 + 16 * sender]
    }

    /// Messages that a receiver has, and a digest of their order.
    fn received(self, receiver: usize) -> [&'static AtomicU64; 2] {
        [&self.0[128 + 16 * receiver], &self.0[129 + 16 * receiver]]
    }
}

fn body(sender: usize, number: u64) -> Vec<u8> {
    // Small ones for the stage, and now and then one that goes to the arena by itself.
    let len = if number % 97 == 0 { 6000 } else { 24 };
    let mut body = vec![number as u8; len];
    body[..8].copy_from_slice(&number.to_le_bytes());
    body[8..16].copy_from_slice(&(sender as u64).to_le_bytes());
    body
}

fn send(mut core: Core, sender: usize, board: Board) {
    wait_until("all are ready", || {
        board.ready().load(SeqCst) == WORKERS as u64
    });
    let mut number = 0;
    while board.stop().load(SeqCst) == 0 {
        core.send_timeout("room", &body(sender, number), LONG)
            .expect("sent");
        number += 1;
        board.sent(sender).store(number, SeqCst);
    }
    core.send_timeout("room", b"the end", LONG).expect("sent");
}

fn receive(mut core: Core, receiver: usize, board: Board) {
    let (mut due, mut ends, mut order) = ([0u64; SENDERS], 0, 0u64);
    while ends < SENDERS {
        let message = core.recv_timeout(LONG).expect("whole").expect("in time");
        if message.body == b"the end" {
            ends += 1;
            continue;
        }
        let sender = message.sender.worker as usize;
        assert_eq!(message.body, body(sender, due[sender]), "after {due:?}");
        due[sender] += 1;
        order = (order ^ sender as u64)
            .wrapping_mul(0x100_0000_01b3)
            .rotate_left(7);
        let [count, digest] = board.received(receiver);
        count.store(due.iter().sum(), SeqCst);
        digest.store(order, SeqCst);
    }
}

/// The first program: makes the hub and the workers.
fn begin(board: Board, mode: Mode) -> Hub {
    let assist = mode == Mode::Assist;
    let hub = Hub::builder()
        .workers(WORKERS as u32)
        .lane_bytes(16 << 10)
        .queue_bytes(16 << 10)
        .max_message(8000)
        .overflow(Overflow::Block)
        .isolation(!assist)
        .assist(assist)
        .await_successor(true)
        .answer_timeout(LONG)
        .create()
        .expect("a hub");
    for worker in 0..WORKERS {
        let child = fork(|| {
            // The thread that forked may end in an exec of another one. Should the server end as well,
            // their waits do.
            // SAFETY: no memory is involved.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
            let mut core = hub.attach(worker as u32, 0).expect("a core");
            if worker >= SENDERS {
                core.join("room").expect("joined");
            }
            board.ready().fetch_add(1, SeqCst);
            match worker.checked_sub(SENDERS) {
                None => send(core, worker, board),
                Some(receiver) => receive(core, receiver, board),
            }
        });
        board.pid(worker).store(child.pid().as_raw() as u64, SeqCst);
        // It is the next program's child as well.
        std::mem::forget(child);
    }
    hub
}

/// Messages of all senders so far.
fn sent(board: Board) -> u64 {
    (0..SENDERS).map(|s| board.sent(s).load(SeqCst)).sum()
}

/// One program of the server; does not return.
fn serve(told: &str) -> ! {
    let mut words = told.splitn(5, ' ');
    let mut number = || {
        words
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .expect("told")
    };
    let (generation, last, memfd) = (number(), number(), number() as RawFd);
    let mode = number();
    let handoff = words.next().expect("told");
    let (board, mode_is) = (Board::map(memfd), Mode::ALL[mode as usize]);
    let hub = match generation {
        0 => begin(board, mode_is),
        _ => Hub::adopt(handoff).expect("adopted"),
    };
    if generation == last {
        let master = hub.start().expect("a master");
        end(&hub, master, board);
    }
    match mode_is {
        Mode::Thread | Mode::Assist => work_on_a_thread(&hub, board, generation),
        Mode::Child => work_in_a_child(&hub, board, generation),
    }
    let handoff = hub.handoff().expect("a handoff");
    board.reloads().fetch_add(1, SeqCst);
    let told = format!("{} {last} {memfd} {mode} {handoff}", generation + 1);
    panic!("exec: {}", program(&told).exec());
}

/// Has a master on a thread, in the middle of whose work it returns.
fn work_on_a_thread(hub: &Hub, board: Board, generation: u64) {
    std::mem::forget(hub.start().expect("a master"));
    go_on(board, generation);
    pause(generation, 3000);
}

/// Has a master in a child, and kills it in the middle of its work, one in three while it adopts.
fn work_in_a_child(hub: &Hub, board: Board, generation: u64) {
    let up = &common::shared_words(1)[0];
    let master = fork(|| {
        let _master = hub.start().expect("a master");
        up.store(1, SeqCst);
        loop {
            std::thread::park();
        }
    });
    if generation % 3 == 1 {
        // Some come up within this, some do not.
        pause(generation, 4000);
    } else {
        go_on(board, generation);
        pause(generation, 3000);
    }
    master.kill();
    board.kills().fetch_add(1, SeqCst);
    board.young().fetch_add(1 - up.load(SeqCst), SeqCst);
}

/// Waits until messages go on under the new master, and counts descriptors.
fn go_on(board: Board, generation: u64) {
    if generation == 0 {
        wait_until("all are ready", || {
            board.ready().load(SeqCst) == WORKERS as u64
        });
    } else if generation > 1 {
        let open = common::open_fds() as u64;
        board.fewest().fetch_min(open, SeqCst);
        board.most().fetch_max(open, SeqCst);
    }
    let before = sent(board);
    wait_until("it goes on", || sent(board) > before);
}

fn pause(generation: u64, most: u64) {
    std::thread::sleep(Duration::from_micros(Rng::new(generation + 1).below(most)));
}

/// The last program sees the workers out.
fn end(hub: &Hub, master: MasterThread, board: Board) -> ! {
    board.stop().store(1, SeqCst);
    for worker in 0..WORKERS {
        let pid = Pid::from_raw(board.pid(worker).load(SeqCst) as i32);
        assert_eq!(
            waitpid(pid, None).expect("a child"),
            WaitStatus::Exited(pid, 0)
        );
    }
    wait_until("all slots are back", || hub.stats().cores == 0);
    board.lost().store(hub.stats().lost, SeqCst);
    board.violations().store(hub.stats().violations, SeqCst);
    master.stop().expect("stopped");
    std::process::exit(0);
}

/// This program once more.
fn program(told: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--exact", NAME, "--nocapture"])
        .env(TOLD, told);
    command
}

#[test]
fn a_server_that_reloads_in_the_middle_of_anything_loses_nothing() {
    if let Ok(told) = std::env::var(TOLD) {
        serve(&told);
    }
    let _watchdog = Watchdog::new(8 * LONG);
    for mode in Mode::ALL {
        reloads(mode);
    }
}

fn reloads(mode: Mode) {
    let reloads = std::env::var("CORECAST_RELOADS");
    let reloads = reloads.map_or(RELOADS, |n| n.parse().expect("a number"));
    // Not closed on exec.
    let memfd: OwnedFd = memfd_create(c"reload", MFdFlags::empty()).expect("a memfd");
    nix::unistd::ftruncate(&memfd, Board::BYTES as i64).expect("room");
    let board = Board::map(memfd.as_raw_fd());
    board.fewest().store(u64::MAX, SeqCst);
    let told = format!("0 {reloads} {} {} -", memfd.as_raw_fd(), mode as u8);
    let status = program(&told).status().expect("a server");
    let said = |word: &AtomicU64| word.load(SeqCst);
    let sent = sent(board);
    let received = [0, 1].map(|r| board.received(r).map(said));
    println!(
        "master {mode:?}: {} reloads, {} masters killed ({} of them young), {sent} messages; \
         descriptors {} to {}, lost {}, violations {}",
        said(board.reloads()),
        said(board.kills()),
        said(board.young()),
        said(board.fewest()),
        said(board.most()),
        said(board.lost()),
        said(board.violations()),
    );
    assert!(status.success(), "{status}");
    assert_eq!(said(board.reloads()), reloads);
    let kills = if mode == Mode::Child { reloads } else { 0 };
    assert_eq!(said(board.kills()), kills);
    assert_eq!(received[0][0], sent);
    assert_eq!(received[0], received[1], "two orders");
    assert_eq!(said(board.fewest()), said(board.most()), "descriptors");
    assert_eq!((said(board.lost()), said(board.violations())), (0, 0));
}
