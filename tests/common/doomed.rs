//! A worker that has asked for channels and sent, and dies before any master has noticed it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use corecast::Hub;

use super::{Child, fork, shared_words, wait_until};

/// Such a worker, which has an extra core and has asked to join a room and a channel of its own.
pub struct Doomed {
    child: Child,
    step: &'static AtomicU64,
}

impl Doomed {
    /// Forks it; there it does `first`, and has asked when this returns. `body` it will send.
    pub fn new(hub: &Hub, room: &str, body: &[u8], first: impl FnOnce()) -> Self {
        let step = &shared_words(1)[0];
        let child = fork(|| {
            first();
            let mut core = hub.attach_any().expect("an extra core");
            core.join_async("own").expect("asked");
            core.join_async(room).expect("asked");
            step.store(1, SeqCst);
            while step.load(SeqCst) != 2 {}
            core.send(room, body).expect("sent");
            core.join_async("late").expect("asked");
            step.store(3, SeqCst);
            std::thread::sleep(Duration::from_secs(3600));
        });
        wait_until("it has asked", || step.load(SeqCst) == 1);
        Self { child, step }
    }

    /// Has it send its body to the room, and ask for one more channel.
    pub fn send(&self) {
        self.step.store(2, SeqCst);
        wait_until("it has sent", || self.step.load(SeqCst) == 3);
    }

    pub fn die(self) {
        self.child.kill();
    }
}
