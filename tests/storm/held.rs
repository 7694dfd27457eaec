//! The one schedule that the router's own draw is for, step by step: a sender is held up between
//! drawing its ticket and publishing, while the router reads the tails of the lanes.
//!
//! ```text
//! ann draws 5, is held up
//! bob draws 6, publishes
//!                              router cuts; reads ann's tail: nothing new
//! ann publishes, returns
//! bob sends again, and publishes
//!                              router reads bob's tail
//! ```
//! If the router has drawn 7, bob's second message gets 8 and waits for the next pass. If it only
//! looked at the counter, bob may use 6 again: his message is delivered in this pass, ann's in the
//! next, though ann's send had returned before bob's began.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corecast::{Core, Hub, Master, Sabotage};

use super::body;
use super::log::{Event, Id};

const CHANNEL: &str = "held";

/// A core that writes down what it does.
struct Scribe {
    core: Core,
    events: Vec<Event>,
    slot: u32,
    seq: u32,
    clock: Arc<AtomicU64>,
    held: Option<usize>,
}

impl Scribe {
    fn new(hub: &Hub, slot: u32, clock: &Arc<AtomicU64>) -> Self {
        Self {
            core: hub.attach(slot, 0).expect("a core"),
            events: vec![Event::Attached { incarnation: 0 }],
            slot,
            seq: 0,
            clock: Arc::clone(clock),
            held: None,
        }
    }

    fn begin(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (slot, seq) = (self.slot, self.seq);
        let id = Id {
            slot,
            incarnation: 0,
            seq,
        };
        body::write(id, 32, &mut bytes);
        self.seq += 1;
        self.held = Some(self.events.len());
        self.events.push(Event::Sent {
            channel: 0,
            begin: self.clock.load(Ordering::SeqCst),
            returned: 0,
        });
        bytes
    }

    fn returned(&mut self) {
        let now = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
        let at = self.held.take().expect("a send has begun");
        if let Event::Sent { returned, .. } = &mut self.events[at] {
            *returned = now;
        }
    }

    fn send(&mut self) {
        let bytes = self.begin();
        self.core.send(CHANNEL, &bytes).expect("sent");
        self.returned();
    }

    fn hold(&mut self) {
        let bytes = self.begin();
        self.core.send_held(CHANNEL, &bytes).expect("half sent");
    }

    fn release(&mut self) {
        self.core.release_held();
        self.returned();
    }

    fn join(&mut self, master: &mut Master) {
        self.events.push(Event::Asked { channel: 0 });
        let ticket = self.core.join_async(CHANNEL).expect("asked");
        settle(master);
        let answer = self.core.join_result(ticket).expect("answered");
        answer.expect("joined");
        let stamp = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
        self.events.push(Event::Joined { channel: 0, stamp });
    }

    /// Receives what is there, and ends.
    fn finish(&mut self) {
        while let Some(message) = self.core.recv().expect("received") {
            let id = body::read(message.body).expect("whole");
            let ticket = message.ticket;
            self.events.push(Event::Got {
                id,
                channel: 0,
                ticket,
            });
        }
        let stamp = self.clock.load(Ordering::SeqCst);
        self.events.push(Event::Leaving { channel: 0, stamp });
        self.events.push(Event::Left { channel: 0 });
        self.events.push(Event::Done);
    }
}

fn settle(master: &mut Master) {
    master.poll(Some(Duration::ZERO)).expect("polled");
}

/// Runs the schedule, with or without the router's draw; returns the three logs.
pub fn run(cut_without_draw: bool) -> Vec<Vec<Event>> {
    let hub = Hub::builder().workers(3).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let clock = Arc::new(AtomicU64::new(1));
    let [mut ann, mut bob, mut eve] = [0, 1, 2].map(|slot| Scribe::new(&hub, slot, &clock));
    eve.join(&mut master);
    // Both lanes active, so that the router looks at them unasked.
    ann.send();
    bob.send();
    master.step();
    ann.hold();
    bob.send();
    let pair = Arc::new(Mutex::new((ann, bob)));
    let actors = Arc::clone(&pair);
    let mut is_done = false;
    master.sabotage(Sabotage {
        cut_without_draw,
        between_tails: Some(Box::new(move || {
            if !std::mem::replace(&mut is_done, true) {
                let (ann, bob) = &mut *actors.lock().expect("one thread");
                ann.release();
                bob.send();
            }
        })),
        ..Sabotage::default()
    });
    master.step();
    master.sabotage(Sabotage::default());
    settle(&mut master);
    eve.finish();
    let (ann, bob) = &mut *pair.lock().expect("one thread");
    for sender in [&mut *ann, &mut *bob] {
        sender.events.push(Event::Done);
    }
    [ann, bob, &mut eve]
        .map(|s| std::mem::take(&mut s.events))
        .into()
}
