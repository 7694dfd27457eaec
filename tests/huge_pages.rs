//! Huge pages: asked for where the hub is told to, and no harm where the kernel gives none.

mod common;

use std::time::Duration;

use common::{LONG, Watchdog, alone, fork};
use corecast::{Hub, Overflow};

/// A field of all mappings of the hub in /proc/self/smaps, in KiB.
fn mapped(field: &str) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("procfs");
    let (mut is_ours, mut sum) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        match first.strip_suffix(':') {
            None => is_ours = line.contains("memfd:corecast"),
            Some(name) if is_ours && name == field => {
                sum += words
                    .next()
                    .and_then(|n| n.parse::<u64>().ok())
                    .unwrap_or(0);
            }
            Some(_) => {}
        }
    }
    sum
}

/// How often the kernel has wanted to give a huge page and found none: memory is in pieces.
fn refused() -> u64 {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let fallbacks = counters
        .lines()
        .filter_map(|line| line.strip_prefix("thp_file_fallback "));
    fallbacks.filter_map(|n| n.parse::<u64>().ok()).sum()
}

/// What the kernel does for shared memory: never, advise, always, ...
fn policy() -> String {
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let all = std::fs::read_to_string(path).unwrap_or_default();
    let chosen = all
        .split('[')
        .nth(1)
        .and_then(|rest| rest.split(']').next());
    chosen.unwrap_or("never").to_owned()
}

/// Messages from a forked worker to this process, through queue and arena.
fn exchange(hub: &Hub) {
    let master = hub.start().expect("a master");
    let mut core = hub.attach_any().expect("a core");
    core.join("room").expect("joined");
    let sender = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        for n in 0..200usize {
            let body = vec![n as u8; 1 + n * 100];
            core.send_timeout("room", &body, LONG).expect("sent");
        }
    });
    for n in 0..200usize {
        let message = core.recv_timeout(LONG).expect("whole").expect("in time");
        assert_eq!(message.body, vec![n as u8; 1 + n * 100]);
    }
    sender.join();
    drop(core);
    master.stop().expect("stopped");
}

#[test]
fn they_are_used_where_the_kernel_gives_them() {
    let _alone = alone();
    let _watchdog = Watchdog::new(4 * LONG);
    let builder = || {
        let patience = Duration::from_secs(30);
        let hub = Hub::builder().workers(2).answer_timeout(patience);
        hub.overflow(Overflow::Block)
    };
    for isolation in [true, false] {
        for populate in [false, true] {
            let hub = builder().isolation(isolation).populate(populate);
            let plain = hub.clone().create().expect("a hub");
            exchange(&plain);
            let without = mapped("ShmemPmdMapped");
            drop(plain);
            let before = refused();
            let hub = hub.huge_pages(true).create().expect("a hub");
            exchange(&hub);
            let got = mapped("ShmemPmdMapped");
            println!(
                "isolation {isolation}, populate {populate}: {} has given {got} KiB",
                policy()
            );
            if refused() > before {
                println!("it had none to give");
                continue;
            }
            match policy().as_str() {
                // What is backed is put together even there, by kernels that can.
                "never" | "deny" => assert!(got == 0 || populate),
                "advise" => assert!(got > 0 && without == 0, "{got}, without {without}"),
                _ => assert!(got > 0),
            }
        }
    }
}
