//! iceoryx2: zero-copy samples in shared memory; receivers poll, or sleep on its events.
//!
//! Its best reasonable setting: no overwriting of unread samples, publishers wait where a buffer
//! is full, buffers as large as pays, bodies written in place into loaned samples.
//! A receiver that polls and finds nothing yields its processor: on a machine with more receivers
//! than processors, spinning without that would keep the publisher from running.

use core::time::Duration;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::*;

use crate::daemon::Scratch;
use crate::link::{Link, Peer, Role, Topology, Wait};
use crate::shared::{Account, Credit};
use crate::support::crew::Failure;
use crate::support::hub::LOAN;

/// Most bytes that the samples of one publisher may take.
const POOL: usize = 256 << 20;
/// Bytes a sample takes beside its body.
const HEADER: usize = 64;
/// Samples in a buffer; more bring nothing.
const MOST: usize = 1024;
/// The same of large bodies: with more of them they have left the caches when they are read, and half as
/// many get through; with fewer, publishers wait.
const MOST_LARGE: usize = 64;

/// The services of a topology.
pub struct Iceoryx {
    topology: Topology,
    credit: Credit,
    config: Config,
    prefix: String,
    // Keeps the services in being until the round is over.
    kept: Vec<Services>,
    _scratch: Scratch,
}

type Samples =
    iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, [u8], ()>;
type Events = iceoryx2::service::port_factory::event::PortFactory<ipc::Service>;

/// The services of one channel.
struct Services {
    samples: Samples,
    events: Events,
    _node: Node<ipc::Service>,
}

impl Iceoryx {
    /// Creates the services for `topology`.
    pub fn prepare(topology: Topology) -> Result<Iceoryx, Failure> {
        set_log_level(LogLevel::Fatal);
        let scratch = Scratch::new("iceoryx2")?;
        let mut config = Config::default();
        let root = scratch.join("");
        let path = Path::new(root.as_bytes()).map_err(broken("root"))?;
        config.global.set_root_path(&path);
        let prefix = format!("peers_{}_", std::process::id());
        config.global.prefix = FileName::new(prefix.as_bytes()).map_err(broken("prefix"))?;
        config.global.creation_timeout = Duration::from_secs(10);
        let mut peer = Iceoryx {
            credit: Credit::new(&topology, u64::MAX / 2)?,
            topology,
            config,
            prefix,
            kept: Vec::new(),
            _scratch: scratch,
        };
        for channel in peer.topology.channels() {
            let services = peer.services(channel).map_err(Failure::Broken)?;
            peer.kept.push(services);
        }
        Ok(peer)
    }

    fn depth(&self) -> usize {
        let hear = self.topology.receivers();
        let most = if self.topology.size < LOAN {
            MOST
        } else {
            MOST_LARGE
        };
        (POOL / (self.topology.size + HEADER) / hear).clamp(4, most)
    }

    fn services(&self, channel: u8) -> Result<Services, String> {
        let node = NodeBuilder::new()
            .config(&self.config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()
            .map_err(text("node"))?;
        let name = format!("c{channel}");
        let name = ServiceName::new(&name).map_err(text("name"))?;
        let all = self.topology.roles.len() + 2;
        let samples = node
            .service_builder(&name)
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .history_size(0)
            .subscriber_max_buffer_size(self.depth())
            .subscriber_max_borrowed_samples(2)
            .max_publishers(all)
            .max_subscribers(all)
            .max_nodes(all)
            .payload_alignment(Alignment::new(8).expect("a power of two"))
            .open_or_create()
            .map_err(text("samples"))?;
        let events = node
            .service_builder(&name)
            .event()
            .max_nodes(all)
            .max_notifiers(all)
            .max_listeners(all)
            .open_or_create()
            .map_err(text("events"))?;
        Ok(Services {
            samples,
            events,
            _node: node,
        })
    }

    fn publisher(&self, services: &Services) -> Result<Publisher<ipc::Service, [u8], ()>, String> {
        services
            .samples
            .publisher_builder()
            .initial_max_slice_len(self.topology.size)
            .max_loaned_samples(2)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .map_err(text("publisher"))
    }
}

/// Workers that a failed round has killed leave their shared memory behind.
impl Drop for Iceoryx {
    fn drop(&mut self) {
        self.kept.clear();
        let files = std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten();
        let own = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(&self.prefix);
        for file in files.filter(|file| own(&file.file_name())) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

fn text<E: core::fmt::Debug>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error:?}")
}

fn broken<E: core::fmt::Debug>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Broken(format!("iceoryx2 {what}: {error:?}"))
}

impl Peer for Iceoryx {
    type Link<'a> = IceoryxLink<'a>;

    fn link(&self, role: Role) -> Result<IceoryxLink<'_>, String> {
        let sleeps = self.topology.wait == Wait::Sleep;
        let mut link = IceoryxLink {
            out: None,
            inward: None,
            size: self.topology.size,
            wait: self.topology.wait,
            services: Vec::new(),
        };
        // Receivers first, so that a pair of workers does not wait for each other.
        if let Some(channel) = role.hears {
            let services = self.services(channel)?;
            let subscriber = services.samples.subscriber_builder();
            let subscriber = subscriber.create().map_err(text("subscriber"))?;
            let listener = services.events.listener_builder();
            let listener = sleeps.then(|| listener.create()).transpose();
            link.inward = Some(Inward {
                subscriber,
                listener: listener.map_err(text("listener"))?,
                account: self.credit.receiver(role),
            });
            link.services.push(services);
        }
        if let Some(channel) = role.sends {
            let services = self.services(channel)?;
            let notifier = services.events.notifier_builder();
            let notifier = sleeps.then(|| notifier.create()).transpose();
            link.out = Some(Outward {
                publisher: self.publisher(&services)?,
                notifier: notifier.map_err(text("notifier"))?,
                account: self.credit.sender(role),
            });
            link.services.push(services);
        }
        self.meet(&link, role)?;
        Ok(link)
    }
}

impl Iceoryx {
    /// Waits until everybody is there, and connects: a publisher that fills a buffer whose
    /// subscriber has not connected yet drops what comes next instead of waiting.
    fn meet(&self, link: &IceoryxLink, role: Role) -> Result<(), String> {
        let sleeps = self.topology.wait == Wait::Sleep;
        let (mut due, roles) = (Vec::new(), &self.topology.roles);
        for channel in [role.hears, role.sends].into_iter().flatten() {
            let senders = roles.iter().filter(|other| other.sends == Some(channel));
            let receivers = roles.iter().filter(|other| other.hears == Some(channel));
            due.push((senders.count(), receivers.count()));
        }
        for (services, (senders, receivers)) in link.services.iter().zip(due) {
            let (samples, events) = (
                services.samples.dynamic_config(),
                services.events.dynamic_config(),
            );
            while samples.number_of_publishers() < senders
                || samples.number_of_subscribers() < receivers
                || (sleeps && events.number_of_listeners() < receivers)
                || (sleeps && events.number_of_notifiers() < senders)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(inward) = &link.inward {
            inward
                .subscriber
                .update_connections()
                .map_err(text("connect"))?;
        }
        if let Some(out) = &link.out {
            out.publisher
                .update_connections()
                .map_err(text("connect"))?;
        }
        Ok(())
    }
}

/// One worker's ports.
pub struct IceoryxLink<'a> {
    out: Option<Outward<'a>>,
    inward: Option<Inward<'a>>,
    size: usize,
    wait: Wait,
    services: Vec<Services>,
}

struct Outward<'a> {
    publisher: Publisher<ipc::Service, [u8], ()>,
    notifier: Option<Notifier<ipc::Service>>,
    account: Account<'a>,
}

struct Inward<'a> {
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    listener: Option<Listener<ipc::Service>>,
    account: Account<'a>,
}

impl Link for IceoryxLink<'_> {
    fn send(&mut self, count: usize, mut fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        let out = self.out.as_mut().ok_or("this worker does not send")?;
        for _ in 0..count {
            let sample = out.publisher.loan_slice_uninit(self.size);
            let mut sample = sample.map_err(text("loan"))?;
            let body = sample.payload_mut();
            // SAFETY: the bytes are this publisher's until they are sent, and `fill` writes every
            // one of them before anybody reads one; a byte has no invalid value.
            let body =
                unsafe { core::slice::from_raw_parts_mut(body.as_mut_ptr().cast(), body.len()) };
            fill(body);
            // SAFETY: written whole just now.
            let sample = unsafe { sample.assume_init() };
            sample.send().map_err(text("send"))?;
        }
        out.account.add(count as u64);
        match &out.notifier {
            Some(notifier) => notifier.notify().map(|_| ()).map_err(text("notify")),
            None => Ok(()),
        }
    }

    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let inward = self.inward.as_mut().ok_or("this worker does not hear")?;
        let mut count = 0;
        loop {
            while let Some(sample) = inward.subscriber.receive().map_err(text("receive"))? {
                take(sample.payload())?;
                count += 1;
            }
            if count > 0 {
                inward.account.add(count);
                return Ok(());
            }
            match &inward.listener {
                Some(listener) => {
                    listener.blocking_wait(|_| {}).map_err(text("wait"))?;
                }
                None if self.wait == Wait::Spin => core::hint::spin_loop(),
                None => std::thread::yield_now(),
            }
        }
    }

    /// What a publisher has sent goes with it, so it stays until all have everything.
    fn finish(&mut self) -> Result<(), String> {
        if let Some(out) = &self.out {
            out.account.wait_for_all();
        }
        Ok(())
    }
}
