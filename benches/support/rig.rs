//! A hub whose every part is in one thread's hands: the master is driven by hand, all cores live in
//! this process.

use std::time::Duration;

use corecast::{Channel, Config, Core, Hub, Master};

pub const CHANNEL: &str = "hot-paths";

/// One worker of one core for the sender, one for each receiver.
pub fn config(receivers: u32) -> Config {
    let mut config = Config::default();
    config.workers = 1 + receivers;
    config.cores = 1;
    config.extra = 0;
    config.channels = 64;
    config
}

/// A sender, receivers that have joined [`CHANNEL`], and the master.
pub struct Rig {
    pub master: Master,
    pub sender: Core,
    pub channel: Channel,
    pub receivers: Vec<Core>,
    _hub: Hub,
}

impl Rig {
    pub fn new(receivers: u32) -> Rig {
        Self::of(&config(receivers))
    }

    /// With one receiver, in assist mode.
    #[allow(dead_code)] // not every bench does
    pub fn assisted() -> Rig {
        let mut config = config(1);
        config.isolation = false;
        config.assist = true;
        Self::of(&config)
    }

    fn of(config: &Config) -> Rig {
        let hub = Hub::create(config).expect("a hub");
        let receivers = config.workers - 1;
        let mut master = hub.master().expect("the master's role");
        let (sender, channel, receivers) = attach_all(&hub, &mut master, receivers);
        Rig {
            master,
            sender,
            channel,
            receivers,
            _hub: hub,
        }
    }

    pub fn send(&mut self, count: u64, body: &[u8]) {
        for _ in 0..count {
            self.sender
                .send_to(self.channel, body)
                .expect("room in the lane");
        }
    }

    /// Routes whatever the lanes hold.
    pub fn route(&mut self) {
        while self.master.step() > 0 {}
    }

    /// Takes `count` messages from every receiver and checks them.
    pub fn take(&mut self, count: u64, body: &[u8]) {
        for receiver in &mut self.receivers {
            for _ in 0..count {
                let message = receiver.recv().expect("nothing lost").expect("a message");
                assert_eq!(message.body, body);
            }
        }
    }

    #[allow(dead_code)] // not every bench does
    pub fn drain(&mut self, count: u64, body: &[u8]) {
        self.route();
        self.take(count, body);
    }
}

/// Attaching and joining wait for the master, so they need a thread beside the one that drives it.
fn attach_all(hub: &Hub, master: &mut Master, receivers: u32) -> (Core, Channel, Vec<Core>) {
    let hub = hub.clone();
    let setup = std::thread::spawn(move || {
        let mut sender = hub.attach(0, 0).expect("the sender's slot");
        let channel = sender.channel(CHANNEL).expect("a handle");
        (
            sender,
            channel,
            (1..=receivers)
                .map(|worker| subscribe(&hub, worker))
                .collect(),
        )
    });
    while !setup.is_finished() {
        master
            .poll(Some(Duration::from_millis(1)))
            .expect("a pass of the master");
    }
    setup.join().expect("no panic in the setup")
}

fn subscribe(hub: &Hub, worker: u32) -> Core {
    let mut core = hub.attach(worker, 0).expect("a receiver's slot");
    core.join(CHANNEL).expect("a subscription");
    core
}
