//! No descriptor, no memory, no room left, at each system call of making a hub, becoming its master,
//! attaching, adopting and coming by socket: a clear error, or success where the call is not needed;
//! nothing leaks, nobody else notices, and the next try succeeds.
//!
//! Each case is a child under ptrace, in which one call fails (`common::trace::with_failure`).

mod common;

use std::error::Error;
use std::time::Duration;

use common::{LONG, Watchdog, alone, open_fds, trace};
use corecast::{Config, Core, Hub, Master, MasterThread};
use nix::sys::wait::WaitStatus;

const ERRORS: [(i32, &str); 3] = [
    (libc::EMFILE, "EMFILE"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ENOMEM, "ENOMEM"),
];

/// Calls that cannot lack anything, or whose failure has nobody to go to: giving back, signals,
/// scheduling, asking who one is, waking, and waiting.
fn may_fail(call: i64) -> bool {
    ![
        libc::SYS_close,
        libc::SYS_munmap,
        libc::SYS_futex,
        libc::SYS_write,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigreturn,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_geteuid,
        libc::SYS_getuid,
        libc::SYS_sched_yield,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_restart_syscall,
        libc::SYS_brk,
    ]
    .contains(&call)
}

/// What a process has that can leak: descriptors, and pages of address space.
fn holdings() -> (usize, u64) {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = text.split(' ').next().and_then(|n| n.parse().ok());
    (open_fds(), pages.expect("a number"))
}

/// From now on the allocator asks the kernel for nothing: a program that cannot have memory from it
/// ends, whatever it asked for. (Half a heap of a thread is taken now, and none is given back.)
fn keep_the_allocator_quiet() {
    // SAFETY: numbers only, and this child has one thread.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
    }
    let pieces: Vec<Vec<u8>> = (0..256).map(|_| vec![1; 64 << 10]).collect();
    drop(pieces);
}

/// Makes `act` fail at each of its calls, with each of the errors; `after` gets what it made then, or
/// by a second try. `act` and `after` run in a child of their own each time.
fn at_each_call<T, E: Error>(
    name: &str,
    act: impl Fn() -> Result<T, E>,
    after: impl Fn(T),
    mut meanwhile: impl FnMut(),
) {
    let _watchdog = Watchdog::new(3 * LONG);
    let (mut cases, mut calls) = (0, std::collections::BTreeSet::new());
    for (errno, error) in ERRORS {
        for nth in 0.. {
            let body = || {
                keep_the_allocator_quiet();
                let before = holdings();
                trace::mark();
                let first = act();
                trace::mark();
                match first {
                    Ok(made) => after(made),
                    Err(e) => {
                        check_text(&e);
                        let (fds, pages) = holdings();
                        let leaks = fds > before.0 || pages > before.1;
                        assert!(
                            !leaks,
                            "{e}: had {before:?}, has {fds} descriptors, {pages} pages"
                        );
                        after(act().expect("the second try"));
                    }
                }
            };
            let (failed, end) = trace::with_failure(nth, errno, may_fail, body);
            let is_well = matches!(end, WaitStatus::Exited(_, 0));
            assert!(is_well, "{name}: {error} from call {failed:?}: {end:?}");
            let Some(call) = failed else {
                assert!(nth > 0, "{name}: no call to fail");
                break;
            };
            meanwhile();
            cases += 1;
            calls.insert(call);
        }
    }
    println!(
        "{name}: {cases} failures, of {} different calls",
        calls.len()
    );
}

/// An error names the call and the reason, or what is needed and what there is.
fn check_text(error: &dyn Error) {
    let text = error.to_string();
    let is_clear =
        text.contains(" failed: ") || text.contains(" available") || text.contains("limit");
    assert!(is_clear, "what to do about {text:?}?");
}

fn config() -> Config {
    let small = Hub::builder().workers(2).extra(1).channels(16);
    let small = small.lane_bytes(4096).queue_bytes(4096).max_message(256);
    small.populate(true).config().clone()
}

/// A core's own message to itself.
fn talks(core: &mut Core, mut turn: impl FnMut()) {
    let ticket = core.join_async("room").expect("asked");
    common::wait_until("it has joined", || {
        turn();
        core.join_result(ticket).is_some()
    });
    core.send("room", b"hello").expect("sent");
    common::wait_until("it is heard", || {
        turn();
        let message = core.recv().expect("no loss");
        message.is_some_and(|m| m.body == b"hello")
    });
    core.leave_all().expect("left");
}

fn works(hub: &Hub, mut master: Master) {
    let mut core = hub.attach_any().expect("a core");
    talks(&mut core, || {
        master.poll(Some(Duration::ZERO)).expect("polled");
    });
}

#[test]
fn creation_fails_whole_or_not_at_all() {
    let _alone = alone();
    let config = config();
    at_each_call(
        "create",
        || Hub::create(&config),
        |hub| works(&hub, hub.master().expect("a master")),
        || {},
    );
}

#[test]
fn becoming_the_master_fails_and_leaves_it_to_the_next_try() {
    let _alone = alone();
    let hub = Hub::create(&config()).expect("a hub");
    at_each_call(
        "master",
        || hub.master(),
        |master| works(&hub, master),
        || {},
    );
}

#[test]
fn starting_a_master_fails_and_leaves_it_to_the_next_try() {
    let _alone = alone();
    let hub = Hub::create(&config()).expect("a hub");
    let goes_on = |master: MasterThread| {
        talks(&mut hub.attach_any().expect("a core"), || {});
        master.stop().expect("stopped");
    };
    at_each_call("start", || hub.start(), goes_on, || {});
}

#[test]
fn attaching_fails_and_others_go_on() {
    let _alone = alone();
    let hub = Hub::create(&config()).expect("a hub");
    let _master = hub.start().expect("a master");
    let mut other = hub.attach_any().expect("a core");
    at_each_call(
        "attach",
        || hub.attach(0, 0),
        |mut core| talks(&mut core, || {}),
        || talks(&mut other, || {}),
    );
}

#[test]
fn becoming_a_worker_fails_and_the_next_try_isolates_it() {
    let _alone = alone();
    let hub = Hub::create(&config()).expect("a hub");
    let _master = hub.start().expect("a master");
    let mut other = hub.attach_any().expect("a core");
    let is_isolated = |worker: corecast::Worker| {
        assert!(hub.attach(0, 0).is_err(), "the other's slot");
        talks(&mut worker.core(0).expect("a core"), || {});
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        let ours = maps.lines().filter(|line| line.contains("memfd:corecast"));
        let writable = ours.filter(|line| line.contains(" rw-s ")).count();
        assert!(writable <= 2, "its own part and the tickets: {maps}");
    };
    at_each_call(
        "worker",
        || hub.worker(1),
        is_isolated,
        || talks(&mut other, || {}),
    );
}

#[test]
fn adopting_fails_and_leaves_the_descriptors_to_the_next_try() {
    let _alone = alone();
    let hub = Hub::create(&config()).expect("a hub");
    let text = hub.handoff().expect("all descriptors are open");
    let goes_on = |heir: Hub| {
        works(&heir, heir.master().expect("a master"));
        std::mem::forget(heir); // its descriptors are those of this child's copy of the hub
    };
    at_each_call("adopt", || Hub::adopt(&text), goes_on, || {});
}

#[test]
fn coming_by_socket_fails_and_others_go_on() {
    let _alone = alone();
    let hub = Hub::create(&config()).expect("a hub");
    let name = hub.listen(None, 0).expect("a socket");
    let _master = hub.start().expect("a master");
    let mut other = hub.attach_any().expect("a core");
    at_each_call(
        "connect",
        || Hub::connect(&name, LONG),
        |guest| talks(&mut guest.attach_any().expect("a core"), || {}),
        || talks(&mut other, || {}),
    );
}
