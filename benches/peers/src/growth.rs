//! What corecast's costs grow with: subscribed cores, channels, joins; and what memory it takes.
//!
//! Redis stands beside it where it has the same thing: channels and joining.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use corecast::{Config, Core, Hub, JoinError, JoinTicket, Overflow, SendError};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::findings::Figures;
use crate::link::{Topology, Wait, text};
use crate::peer::redis::Redis;
use crate::support::content::{Checker, Stream};
use crate::support::crew::{Crew, Failure, Gate, Report, now};
use crate::support::matrix::Cell;
use crate::support::round::{self, Alarm, Used};
use crate::throughput::{self, CPU, DELIVERIES};
use crate::way::Way;
use crate::work::{Case, Plan, Work};

/// Nanoseconds per message to a channel that nobody is subscribed to.
pub const UNHEARD: &str = "ns_per_unheard_message";
/// Joins a second, each asked for without waiting for the one before.
pub const JOINS: &str = "joins_per_s";
/// Joins and leaves a second, one after the other.
pub const JOIN_LEAVE: &str = "join_and_leave_per_s";
/// Bytes per channel joined by one core.
pub const CHANNEL_BYTES: &str = "bytes_per_channel";
/// Bytes per attached core that has received.
pub const CORE_BYTES: &str = "bytes_per_core";
/// Bytes per 16-byte message that waits in a queue.
pub const MESSAGE_BYTES: &str = "bytes_per_queued_message";

const SIZE: usize = 16;
/// Processes among which many cores are spread.
const PROCESSES: u32 = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// 1 to 1,024 subscribed cores; 1 to 1,000,000 channels; joining; memory.
pub fn cases(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    for cores in [1, 4, 16, 64, 256, 1024] {
        let run = move |_: Way, plan: &Plan| subscribers(cores, plan);
        let ways = vec![Way::Corecast];
        let name = format!("{cores} subscribed cores");
        cases.push(case(
            name,
            cores,
            ways,
            plan.length.as_secs_f64() + 0.3,
            run,
        ));
    }
    let most = if plan.check { 1000 } else { 1_000_000 };
    for channels in [1, 100, 10_000, 1_000_000].map(|count: u32| count.min(most)) {
        let run = move |way: Way, plan: &Plan| match way {
            Way::Redis => redis_channels(channels, plan),
            _ => many_channels(channels, plan),
        };
        let ways = vec![Way::Corecast, Way::Redis];
        let name = format!("{channels} channels");
        let seconds = 2.0 * plan.length.as_secs_f64() + f64::from(channels) * 3e-6;
        cases.push(case(name, channels, ways, seconds, run));
    }
    cases.dedup_by(|one, two| one.name == two.name);
    let run = move |way: Way, plan: &Plan| match way {
        Way::Redis => redis_joins(plan),
        _ => joins(plan),
    };
    let ways = vec![Way::Corecast, Way::Redis];
    cases.push(case(
        "join and leave".to_owned(),
        1,
        ways,
        plan.length.as_secs_f64(),
        run,
    ));
    let run = |_: Way, _: &Plan| memory();
    cases.push(case("memory".to_owned(), 1, vec![Way::Corecast], 0.3, run));
    cases
}

fn case(
    name: String,
    x: u32,
    ways: Vec<Way>,
    seconds: f64,
    run: impl Fn(Way, &Plan) -> Result<Figures, Failure> + 'static,
) -> Case {
    Case {
        work: Work::Growth,
        name,
        x: Some(f64::from(x)),
        ways,
        seconds,
        run: Box::new(run),
    }
}

fn broken<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Broken(format!("{what}: {error}"))
}

fn hub(set: impl FnOnce(&mut Config)) -> Result<Hub, Failure> {
    let mut config = Config::default();
    config.overflow = Overflow::Block;
    config.extra = 2;
    set(&mut config);
    Hub::create(&config).map_err(broken("hub"))
}

/// One sender, `cores` subscribed cores in at most 16 processes.
fn subscribers(cores: u32, plan: &Plan) -> Result<Figures, Failure> {
    let before = Used::now()?;
    let _alarm = Alarm::set(plan.limit + Duration::from_secs(5));
    let processes = cores.min(PROCESSES);
    let hub = hub(|config| {
        config.workers = processes + 1;
        config.cores = cores.div_ceil(processes);
    })?;
    let mut crew = Crew::new(plan.signals, plan.limit)?;
    for worker in 1..=processes {
        crew.spawn(format!("receiver {worker}"), |gate| {
            hear_with_many(gate, &hub, worker, cores.div_ceil(processes))
        })?;
    }
    crew.spawn("sender".to_owned(), |gate| {
        send(gate, &hub, "growth", plan.length)
    })?;
    let master = hub.start().map_err(broken("master"))?;
    let times = round::watch(&mut crew);
    drop(crew);
    master.stop().map_err(broken("master"))?;
    let cell = Cell {
        senders: 1,
        receivers: cores,
        size: SIZE,
    };
    let stats = hub.stats();
    let used = Used::now()?.since(&before);
    let round = round::figure(cell, plan.length, times?, Some(stats), used)?;
    Ok(Figures::from([
        (
            DELIVERIES.to_owned(),
            round.deliveries as f64 / round.seconds,
        ),
        (
            CPU.to_owned(),
            round.cpu_seconds * 1e9 / round.deliveries as f64,
        ),
    ]))
}

fn send(gate: &mut Gate, hub: &Hub, name: &str, length: Duration) -> Result<Report, String> {
    let mut core = hub.attach(0, 0).map_err(text("attach"))?;
    let channel = core.channel(name).map_err(text("channel"))?;
    gate.wait()?;
    let mut stream = Stream::new(0, SIZE, 1, length);
    let mut body = [0; SIZE];
    while stream.next_group().is_some() {
        stream.fill(&mut body);
        match core.send_to(channel, &body) {
            Err(SendError::Full) => core.send_to_timeout(channel, &body, PATIENCE),
            sent => sent,
        }
        .map_err(text("send"))?;
    }
    Ok(Report {
        finished: now(),
        sent: stream.sent(),
        ..Report::default()
    })
}

/// All cores of one worker in one loop.
fn hear_with_many(gate: &mut Gate, hub: &Hub, worker: u32, cores: u32) -> Result<Report, String> {
    let attached = (0..cores).map(|core| hub.attach(worker, core));
    let mut cores: Vec<Core> = attached.collect::<Result<_, _>>().map_err(text("attach"))?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(text("epoll"))?;
    for (at, core) in cores.iter_mut().enumerate() {
        core.join("growth").map_err(text("join"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, at as u64);
        epoll.add(core.as_fd(), event).map_err(text("epoll"))?;
    }
    let mut checkers: Vec<Checker> = cores.iter().map(|_| Checker::new(1, SIZE)).collect();
    gate.wait()?;
    let mut events = vec![EpollEvent::empty(); cores.len()];
    // What is not looked at first is not armed.
    let mut ready: Vec<usize> = (0..cores.len()).collect();
    while checkers.iter().any(|checker| !checker.finished()) {
        for at in ready.drain(..) {
            while let Some(message) = cores[at].recv().map_err(text("recv"))? {
                checkers[at].accept(message.body)?;
            }
        }
        if checkers.iter().all(Checker::finished) {
            break;
        }
        let count = epoll
            .wait(&mut events, EpollTimeout::NONE)
            .map_err(text("epoll"))?;
        ready.extend(events[..count].iter().map(|event| event.data() as usize));
    }
    Ok(Report {
        finished: now(),
        received: checkers.iter_mut().map(Checker::accepted).sum(),
        ..Report::default()
    })
}

/// One to one while `channels` channels are subscribed to; then to a channel nobody hears.
fn many_channels(channels: u32, plan: &Plan) -> Result<Figures, Failure> {
    let _alarm = Alarm::set(plan.limit + Duration::from_secs(30));
    let hub = hub(|config| {
        config.workers = 2;
        config.cores = 1;
        config.channels = (channels + 8).min(1_000_000);
    })?;
    let mut crew = Crew::new(plan.signals, plan.limit)?;
    crew.spawn("receiver".to_owned(), |gate| {
        hear_with_many(gate, &hub, 1, 1)
    })?;
    crew.spawn("sender".to_owned(), |gate| {
        send(gate, &hub, "growth", plan.length)
    })?;
    let master = hub.start().map_err(broken("master"))?;
    let mut figures = Figures::new();
    let mut keeper = hub.attach_any().map_err(broken("attach"))?;
    crew.assemble()?;
    let before = region_bytes();
    let began = Instant::now();
    // Those of the sender and of the other figure count too.
    let extra = channels.saturating_sub(2);
    join_all(&mut keeper, extra).map_err(Failure::Broken)?;
    if extra > 1000 {
        figures.insert(
            JOINS.to_owned(),
            f64::from(extra) / began.elapsed().as_secs_f64(),
        );
        let bytes = region_bytes().saturating_sub(before) as f64 / f64::from(extra);
        figures.insert(CHANNEL_BYTES.to_owned(), bytes);
    }
    let used = Used::now()?;
    let started = crew.start();
    let reports = crew.reports()?;
    crew.disband()?;
    let used = Used::now()?.since(&used);
    let (sent, received) = (reports[1].sent, reports[0].received);
    if sent != received {
        return Err(Failure::Broken(format!("{sent} sent, {received} received")));
    }
    let seconds = (reports[0].finished - started) as f64 / 1e9;
    figures.insert(DELIVERIES.to_owned(), received as f64 / seconds);
    figures.insert(CPU.to_owned(), used.seconds * 1e9 / received as f64);
    figures.insert(UNHEARD.to_owned(), unheard(&hub, &mut keeper, plan)?);
    drop(crew);
    drop(keeper);
    master.stop().map_err(broken("master"))?;
    Ok(figures)
}

/// Joins that many channels, many at a time.
fn join_all(core: &mut Core, channels: u32) -> Result<(), String> {
    let mut asked = VecDeque::new();
    for number in 0..channels {
        let name = format!("channel number {number}");
        loop {
            match core.join_async(&name) {
                Ok(ticket) => break asked.push_back(ticket),
                Err(JoinError::Full | JoinError::TooManyPending { .. }) => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(error) => return Err(format!("join: {error}")),
            }
            harvest(core, &mut asked)?;
        }
        if asked.len() > 256 {
            harvest(core, &mut asked)?;
        }
    }
    while !asked.is_empty() {
        harvest(core, &mut asked)?;
    }
    Ok(())
}

/// Takes the answers that are there.
fn harvest(core: &mut Core, asked: &mut VecDeque<JoinTicket>) -> Result<(), String> {
    while let Some(ticket) = asked.front() {
        match core.join_result(*ticket) {
            Some(answer) => answer.map_err(text("join"))?,
            None => return Ok(()),
        };
        asked.pop_front();
    }
    Ok(())
}

/// Nanoseconds per message to a channel that nobody is subscribed to, until all are routed.
fn unheard(hub: &Hub, core: &mut Core, plan: &Plan) -> Result<f64, Failure> {
    let count = if plan.check { 1000 } else { 1_000_000 };
    let channel = core.channel("nobody").map_err(broken("channel"))?;
    let before = hub.stats().unheard;
    let began = Instant::now();
    for _ in 0..count {
        match core.send_to(channel, &[0; SIZE]) {
            Err(SendError::Full) => core.send_to_timeout(channel, &[0; SIZE], PATIENCE),
            sent => sent,
        }
        .map_err(broken("send"))?;
    }
    while hub.stats().unheard < before + count {
        std::thread::yield_now();
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / count as f64)
}

/// Joining and leaving one channel after the other, each waiting for its answer.
fn joins(plan: &Plan) -> Result<Figures, Failure> {
    let _alarm = Alarm::set(plan.limit + Duration::from_secs(5));
    let hub = hub(|config| config.workers = 1)?;
    let mut crew = Crew::new(plan.signals, plan.limit)?;
    let length = plan.length;
    crew.spawn("joiner".to_owned(), |gate| {
        let mut core = hub.attach(0, 0).map_err(text("attach"))?;
        gate.wait()?;
        let (end, mut sent) = (Instant::now() + length, 0);
        while Instant::now() < end {
            let name = format!("channel number {}", sent % 1000);
            core.join(&name).map_err(text("join"))?;
            core.leave(&name).map_err(text("leave"))?;
            sent += 1;
        }
        Ok(Report {
            finished: now(),
            sent,
            ..Report::default()
        })
    })?;
    let master = hub.start().map_err(broken("master"))?;
    let times = round::watch(&mut crew);
    drop(crew);
    master.stop().map_err(broken("master"))?;
    let (started, reports) = times?;
    let seconds = (reports[0].finished - started) as f64 / 1e9;
    Ok(Figures::from([(
        JOIN_LEAVE.to_owned(),
        reports[0].sent as f64 / seconds,
    )]))
}

/// What cores and waiting messages take.
fn memory() -> Result<Figures, Failure> {
    const CORES: u32 = 256;
    const MESSAGES: u64 = 1_000_000;
    let mut figures = Figures::new();
    let cores_hub = hub(|config| config.workers = CORES)?;
    let master = cores_hub.start().map_err(broken("master"))?;
    let mut sender = cores_hub.attach_any().map_err(broken("attach"))?;
    sender.send("memory", &[0; SIZE]).map_err(broken("send"))?;
    let before = region_bytes();
    let mut cores = Vec::new();
    for worker in 0..CORES {
        let mut core = cores_hub.attach(worker, 0).map_err(broken("attach"))?;
        core.join("memory").map_err(broken("join"))?;
        cores.push(core);
    }
    sender.send("memory", &[0; SIZE]).map_err(broken("send"))?;
    for core in &mut cores {
        let message = core
            .recv_timeout(Duration::from_secs(5))
            .map_err(broken("recv"))?;
        message.ok_or(Failure::Broken("a message did not arrive".to_owned()))?;
    }
    let taken = region_bytes().saturating_sub(before) as f64;
    figures.insert(CORE_BYTES.to_owned(), taken / f64::from(CORES));
    drop((cores, sender));
    master.stop().map_err(broken("master"))?;
    drop(cores_hub);

    let queue_hub = hub(|config| {
        config.workers = 1;
        config.queue_bytes = 128 << 20;
    })?;
    let master = queue_hub.start().map_err(broken("master"))?;
    let mut sleeper = queue_hub.attach(0, 0).map_err(broken("attach"))?;
    sleeper.join("memory").map_err(broken("join"))?;
    let mut sender = queue_hub.attach_any().map_err(broken("attach"))?;
    let send = |sender: &mut Core, count: u64| -> Result<u64, Failure> {
        for _ in 0..count {
            sender
                .send_timeout("memory", &[0; SIZE], PATIENCE)
                .map_err(broken("send"))?;
        }
        Ok(region_bytes())
    };
    // The lane's pages are touched by the first messages.
    let before = send(&mut sender, 20_000)?;
    send(&mut sender, MESSAGES)?;
    while queue_hub.stats().deliveries < MESSAGES + 20_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let taken = region_bytes().saturating_sub(before) as f64;
    figures.insert(MESSAGE_BYTES.to_owned(), taken / MESSAGES as f64);
    drop((sleeper, sender));
    master.stop().map_err(broken("master"))?;
    Ok(figures)
}

/// Bytes that hubs of this process have in memory: the blocks of its memfds.
fn region_bytes() -> u64 {
    let mut seen = Vec::new();
    let Ok(fds) = fs::read_dir("/proc/self/fd") else {
        return 0;
    };
    let paths = fds.flatten().map(|entry| entry.path());
    let memfds = paths.filter(|path| {
        fs::read_link(path).is_ok_and(|link| link.to_string_lossy().contains("memfd:corecast"))
    });
    for file in memfds.filter_map(|path| fs::metadata(path).ok()) {
        if !seen.iter().any(|(inode, _)| *inode == file.ino()) {
            seen.push((file.ino(), file.blocks() * 512));
        }
    }
    seen.iter().map(|(_, bytes)| bytes).sum()
}

const ONE_TO_ONE: Cell = Cell {
    senders: 1,
    receivers: 1,
    size: SIZE,
};

/// One to one through Redis while another client is subscribed to `channels` channels.
fn redis_channels(channels: u32, plan: &Plan) -> Result<Figures, Failure> {
    let mut figures = Figures::new();
    let joined = &mut figures;
    let round = throughput::fan(
        |topology| {
            let mut redis = Redis::prepare(topology)?;
            let before = redis.memory().map_err(Failure::Broken)?;
            let began = Instant::now();
            let extra = channels.saturating_sub(1);
            redis.subscribe_to(extra).map_err(Failure::Broken)?;
            if extra > 1000 {
                let rate = f64::from(extra) / began.elapsed().as_secs_f64();
                let bytes = redis.memory().map_err(Failure::Broken)? - before;
                joined.insert(JOINS.to_owned(), rate);
                joined.insert(CHANNEL_BYTES.to_owned(), bytes / f64::from(extra));
            }
            Ok(redis)
        },
        ONE_TO_ONE,
        Wait::Sleep,
        plan,
    )?;
    figures.insert(
        DELIVERIES.to_owned(),
        round.deliveries as f64 / round.seconds,
    );
    Ok(figures)
}

/// Subscribing and unsubscribing, one after the other, each waiting for its answer.
fn redis_joins(plan: &Plan) -> Result<Figures, Failure> {
    let redis = Redis::prepare(Topology::fan(ONE_TO_ONE, Wait::Sleep))?;
    let mut wire = redis
        .connect(b"PING\r\n", "+PONG\r\n")
        .map_err(Failure::Broken)?;
    let (began, mut count) = (Instant::now(), 0u64);
    while began.elapsed() < plan.length {
        for (verb, end) in [("SUBSCRIBE", ":1\r\n"), ("UNSUBSCRIBE", ":0\r\n")] {
            let said = format!("{verb} channel-number-{}\r\n", count % 1000);
            ask(&mut wire, said.as_bytes(), end.as_bytes())?;
        }
        count += 1;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    Ok(Figures::from([(JOIN_LEAVE.to_owned(), rate)]))
}

/// Says something and reads until the answer ends as it should.
fn ask(wire: &mut UnixStream, said: &[u8], end: &[u8]) -> Result<(), Failure> {
    wire.write_all(said)?;
    let mut answer = Vec::new();
    let mut bytes = [0; 512];
    while !answer.ends_with(end) {
        let count = wire.read(&mut bytes)?;
        answer.extend_from_slice(&bytes[..count]);
        if count == 0 || answer.len() > 4096 {
            let text = String::from_utf8_lossy(&answer).into_owned();
            return Err(Failure::Broken(format!("redis: {text}")));
        }
    }
    Ok(())
}
