//! Joining and leaving a great many distinct names leaves memory flat: channels are recycled, in
//! the region, in the router and in the core.
//!
//! `CORECAST_LONG=1` makes it ten million names instead of 200,000 (use a release build).

mod common;

use std::time::Duration;

use common::alone;
use corecast::{Core, Hub, JoinTicket, Master};

/// Names that are joined at a time: as many as joins may be unanswered.
const AT_ONCE: u64 = 64;

fn names() -> u64 {
    let long = std::env::var_os("CORECAST_LONG").is_some_and(|v| v != "0");
    if long { 10_000_000 } else { 200_000 }
}

/// KiB of memory that this process holds: the region's pages, and everything else.
#[derive(Clone, Copy, Debug)]
struct Memory {
    shared: i64,
    private: i64,
}

fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let field = |name: &str| -> i64 {
        let line = status.lines().find(|line| line.starts_with(name));
        let words = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        words.expect("a field").parse().expect("a number")
    };
    Memory {
        shared: field("RssShmem:"),
        private: field("RssAnon:"),
    }
}

fn now(master: &mut Master) {
    master.poll(Some(Duration::ZERO)).expect("polled");
}

/// Joins, hears from, and leaves names `from..from + AT_ONCE`.
fn batch(core: &mut Core, master: &mut Master, from: u64) {
    // Lengths vary, so that a name is often written over a longer one.
    let name = |n: u64| format!("{n}/{:width$}", "", width = (n * 7 % 200) as usize);
    let ask = |core: &mut Core, n| core.join_async(name(n)).expect("asked");
    let tickets: Vec<JoinTicket> = (from..from + AT_ONCE).map(|n| ask(core, n)).collect();
    now(master);
    for ticket in tickets {
        core.join_result(ticket).expect("answered").expect("joined");
    }
    core.send(name(from), &from.to_le_bytes()).expect("sent");
    now(master);
    let message = core.recv().expect("ok").expect("a message");
    assert_eq!(
        (message.name, message.body),
        (name(from).as_bytes(), &from.to_le_bytes()[..])
    );
    for n in from..from + AT_ONCE {
        core.leave(name(n)).expect("left");
    }
    now(master);
    while core.recv().expect("ok").is_some() {}
}

#[test]
fn joining_and_leaving_ever_new_names_leaves_memory_flat() {
    let _alone = alone();
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let batches = names() / AT_ONCE;
    let mut early = None;
    for number in 0..batches {
        if number == batches / 10 {
            early = Some(memory());
        }
        batch(&mut core, &mut master, number * AT_ONCE);
    }
    let (early, late) = (early.expect("enough batches"), memory());
    let stats = hub.stats();
    println!(
        "{} names: after a tenth {early:?}, at the end {late:?}",
        batches * AT_ONCE
    );
    assert_eq!(stats.joins, batches * AT_ONCE);
    assert_eq!(
        (stats.leaves, stats.channels, stats.subscriptions),
        (stats.joins, 0, 0)
    );
    assert!(late.shared - early.shared <= 64, "{early:?} {late:?}");
    assert!(late.private - early.private <= 256, "{early:?} {late:?}");
}

/// The same with every channel in use at once: then one more is refused, and room comes back.
#[test]
fn filling_the_directory_again_and_again_leaves_memory_flat() {
    let _alone = alone();
    const CHANNELS: u64 = 4096;
    let builder = Hub::builder().workers(1).channels(CHANNELS as u32);
    let hub = builder.create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let mut early = None;
    for round in 0..20 {
        for n in 0..CHANNELS {
            let ticket = core.join_async(format!("{round} {n}")).expect("asked");
            if n % AT_ONCE == AT_ONCE - 1 {
                now(&mut master);
                core.join_result(ticket).expect("answered").expect("joined");
            }
        }
        assert_eq!(hub.stats().channels, CHANNELS);
        let ticket = core.join_async("one more").expect("asked");
        now(&mut master);
        assert!(core.join_result(ticket).expect("answered").is_err());
        core.leave_all().expect("left");
        now(&mut master);
        while core.recv().expect("ok").is_some() {}
        assert_eq!(hub.stats().channels, 0);
        if round == 4 {
            early = Some(memory()); // by now the lane has been all around its window
        }
    }
    let (early, late) = (early.expect("rounds"), memory());
    println!("after 5 rounds {early:?}, after 20 {late:?}");
    assert!(late.shared - early.shared <= 64, "{early:?} {late:?}");
    assert!(late.private - early.private <= 1024, "{early:?} {late:?}");
}
