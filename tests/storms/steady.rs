//! What must go on as if nothing had happened, and what must not grow.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use corecast::{Core, Hub};

use crate::common::{LONG, open_fds, wait_until};

/// Numbered messages between two cores of this process, every one of which must come.
pub struct Pair {
    from: Core,
    to: Core,
    sent: u64,
    received: u64,
}

impl Pair {
    pub fn new(hub: &Hub) -> Self {
        let [from, mut to] = [(); 2].map(|()| hub.attach_any().expect("an extra core"));
        to.join("steady").expect("joined");
        Self {
            from,
            to,
            sent: 0,
            received: 0,
        }
    }

    /// Sends `n`, and receives until all have come.
    pub fn check(&mut self, n: u64) {
        for _ in 0..n {
            let body = self.sent.to_le_bytes();
            self.from.send_timeout("steady", &body, LONG).expect("sent");
            self.sent += 1;
        }
        wait_until("all has come", || {
            while let Some(message) = self.to.recv().expect("nothing is lost") {
                assert_eq!(message.body, self.received.to_le_bytes());
                self.received += 1;
            }
            self.received == self.sent
        });
    }
}

/// What must not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    fds: usize,
    mappings: usize,
    resident_kib: usize,
}

impl Footprint {
    pub fn now() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).expect("procfs");
        let statm = read("/proc/self/statm");
        let pages = statm
            .split(' ')
            .nth(1)
            .and_then(|n| n.parse::<usize>().ok());
        Self {
            fds: open_fds(),
            mappings: read("/proc/self/maps").lines().count(),
            resident_kib: pages.expect("resident pages") * 4,
        }
    }

    /// Panics if there is more than `before` once all is quiet: of memory, more than an
    /// allocator's whim; of descriptors, any that stays.
    pub fn check(before: Self, what: &str) {
        wait_until("the descriptors of the dead are closed", || {
            open_fds() <= before.fds
        });
        let now = Self::now();
        println!("{what}: {before:?} -> {now:?}");
        assert!(now.mappings <= before.mappings + 2, "mappings");
        assert!(now.resident_kib <= before.resident_kib + 2048, "memory");
    }
}
