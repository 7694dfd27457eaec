//! A fixed rate: 50,000 messages a second from one worker to four, in bursts or one by one.
//!
//! What counts here is not how much goes through but what it costs, and how long a message takes.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use crate::counters::Counters;
use crate::findings::Figures;
use crate::latencies::{self, WORDS};
use crate::link::{Link, Peer, Role, Topology, Wait};
use crate::peer;
use crate::peer::corecast::{Corecast, Drive};
use crate::shared::Shared;
use crate::support::content::{Checker, Stream};
use crate::support::crew::{Crew, Failure, Gate, Report, now};
use crate::support::matrix::Cell;
use crate::support::round::{self, Alarm, Used};
use crate::way::Way;
use crate::work::{Case, Plan, Work};

/// Processor seconds of all processes.
pub const CPU: &str = "cpu_s";
/// System calls of all processes per message.
pub const CALLS: &str = "system_calls_per_message";
/// Tasks woken per message.
pub const WAKES: &str = "wakes_per_message";
/// Messages a second that were reached.
pub const RATE: &str = "messages_per_s";

const PER_SECOND: u64 = 50_000;
/// Content that is checked, and the time of sending.
const CONTENT: usize = 16;
const SIZE: usize = CONTENT + 8;
const CELL: Cell = Cell {
    senders: 1,
    receivers: 4,
    size: SIZE,
};

/// Bursts of 50 every millisecond; one message every 20 microseconds.
pub fn cases(plan: &Plan) -> Vec<Case> {
    vec![case("bursts of 50", 50, plan), case("single", 1, plan)]
}

fn length(plan: &Plan) -> Duration {
    Duration::from_millis(match (plan.check, plan.quick) {
        (true, _) => 50,
        (_, true) => 1000,
        _ => 5000,
    })
}

/// How long the round lasts in which system calls and wakes are counted.
fn counted(plan: &Plan) -> Duration {
    length(plan).min(Duration::from_secs(1))
}

fn case(name: &str, burst: usize, plan: &Plan) -> Case {
    Case {
        work: Work::Paced,
        name: name.to_owned(),
        x: None,
        ways: [
            Way::Corecast,
            Way::CorecastAssist,
            Way::CorecastPolled,
            Way::Pacer,
            Way::Wakes,
        ]
        .into_iter()
        .chain(Way::SLEEPING)
        .collect(),
        seconds: (length(plan) + counted(plan)).as_secs_f64() + 0.3,
        run: Box::new(move |way, plan| run(way, burst, plan)),
    }
}

fn run(way: Way, burst: usize, plan: &Plan) -> Result<Figures, Failure> {
    let mut figures = figures(way, burst, length(plan), plan)?;
    if let Some(counters) = Counters::start() {
        let round = self::figures(way, burst, counted(plan), plan)?;
        let (counts, messages) = (counters.read()?, round["messages"]);
        figures.insert(CALLS.to_owned(), counts.calls as f64 / messages);
        figures.insert(WAKES.to_owned(), counts.wakes as f64 / messages);
    }
    Ok(figures)
}

fn figures(way: Way, burst: usize, length: Duration, plan: &Plan) -> Result<Figures, Failure> {
    let round = Paced {
        burst,
        length,
        plan,
    };
    match way {
        Way::Corecast => round.run(|t| Corecast::prepare(t, Drive::Thread)),
        Way::CorecastAssist => round.run(|t| Corecast::prepare(t, Drive::Assisted)),
        Way::CorecastPolled => round.run(|t| Corecast::prepare(t, Drive::FirstWorker)),
        Way::Pacer => round.alone(),
        Way::Wakes => round.run(peer::wakes::Wakes::prepare),
        Way::Relay => round.run(peer::bare::FanRelay::prepare),
        #[cfg(feature = "iceoryx2")]
        Way::IceoryxEvent => round.run(peer::iceoryx::Iceoryx::prepare),
        #[cfg(feature = "zeromq")]
        Way::Zeromq | Way::ZeromqProxy => {
            round.run(|t| peer::zeromq::Zeromq::prepare(t, way == Way::ZeromqProxy))
        }
        Way::Nats => round.run(peer::nats::Nats::prepare),
        Way::Redis => round.run(peer::redis::Redis::prepare),
        other => Err(Failure::Broken(format!("{} is not for this", other.name()))),
    }
}

struct Paced<'a> {
    burst: usize,
    length: Duration,
    plan: &'a Plan<'a>,
}

impl Paced<'_> {
    fn run<P: Peer>(
        &self,
        prepare: impl FnOnce(Topology) -> Result<P, Failure>,
    ) -> Result<Figures, Failure> {
        let before = Used::now()?;
        let _alarm = Alarm::set(self.plan.limit + Duration::from_secs(5));
        let topology = Topology::fan(CELL, Wait::Sleep);
        let roles = topology.roles.clone();
        let peer = prepare(topology)?;
        let counts = Shared::new(WORDS * CELL.receivers as usize)?;
        let mut crew = Crew::new(self.plan.signals, self.plan.limit)?;
        for role in roles {
            let name = format!("worker {}", role.worker);
            crew.spawn(name, |gate| self.work(gate, &peer, role, &counts))?;
        }
        peer.start()?;
        let (started, reports) = round::watch(&mut crew)?;
        drop(crew);
        drop(peer);
        self.figures(started, &reports, &counts, Used::now()?.since(&before))
    }

    /// The sender alone, sending nothing to nobody: what pacing itself costs.
    fn alone(&self) -> Result<Figures, Failure> {
        let before = Used::now()?;
        let mut crew = Crew::new(self.plan.signals, self.plan.limit)?;
        crew.spawn("pacer".to_owned(), |gate| self.pace(gate, |_, _| Ok(())))?;
        let (started, reports) = round::watch(&mut crew)?;
        drop(crew);
        let used = Used::now()?.since(&before);
        Ok(self.common(started, &reports[0], used))
    }

    fn figures(
        &self,
        started: u64,
        reports: &[Report],
        counts: &Shared,
        used: Used,
    ) -> Result<Figures, Failure> {
        let sent = reports[0].sent;
        if let Some(report) = reports[1..].iter().find(|report| report.received != sent) {
            let text = format!("{sent} sent, {} received", report.received);
            return Err(Failure::Broken(text));
        }
        let mut figures = self.common(started, &reports[0], used);
        latencies::quantiles(counts.words(), &mut figures);
        Ok(figures)
    }

    fn common(&self, started: u64, pacer: &Report, used: Used) -> Figures {
        let seconds = (pacer.finished - started) as f64 / 1e9;
        Figures::from([
            (CPU.to_owned(), used.seconds),
            (RATE.to_owned(), pacer.sent as f64 / seconds),
            ("messages".to_owned(), pacer.sent as f64),
            (
                "sleeps_per_message".to_owned(),
                used.sleeps as f64 / pacer.sent as f64,
            ),
        ])
    }

    fn work<P: Peer>(
        &self,
        gate: &mut Gate,
        peer: &P,
        role: Role,
        counts: &Shared,
    ) -> Result<Report, String> {
        let mut link = peer.link(role)?;
        if role.hears.is_some() {
            let at = (role.worker - CELL.senders as usize) * WORDS;
            return self.receive(gate, link, &counts.words()[at..at + WORDS]);
        }
        let report = self.pace(gate, |count, stream| {
            link.send(count, |body| {
                let (content, time) = body.split_at_mut(CONTENT);
                stream.fill(content);
                time.copy_from_slice(&now().to_ne_bytes());
            })
        })?;
        link.finish()?;
        Ok(report)
    }

    /// Calls `send` for every burst when its time has come; late ones follow at once.
    fn pace(
        &self,
        gate: &mut Gate,
        mut send: impl FnMut(usize, &mut Stream) -> Result<(), String>,
    ) -> Result<Report, String> {
        nix::sys::prctl::set_timerslack(1).map_err(|errno| errno.to_string())?;
        gate.wait()?;
        let step = 1_000_000_000 * self.burst as u64 / PER_SECOND;
        let mut stream = Stream::new(0, CONTENT, self.burst, self.length);
        let mut due = now();
        let mut sent = 0;
        while let Some(count) = stream.next_group() {
            sleep_until(due)?;
            due += step;
            send(count, &mut stream)?;
            sent += count as u64;
            if stream.sent() < sent {
                // Nobody filled it: the pacer is alone.
                (0..count).for_each(|_| stream.fill(&mut [0; CONTENT]));
            }
        }
        Ok(Report {
            finished: now(),
            sent,
            ..Report::default()
        })
    }

    fn receive(
        &self,
        gate: &mut Gate,
        mut link: impl Link,
        counts: &[std::sync::atomic::AtomicU64],
    ) -> Result<Report, String> {
        let mut checker = Checker::new(CELL.senders, CONTENT);
        gate.wait()?;
        while !checker.finished() {
            link.receive(|body| {
                let (content, time) = body.split_at(CONTENT.min(body.len()));
                checker.accept(content)?;
                let time = time.try_into().map_err(|_| "a body of another size")?;
                let took = now().checked_sub(u64::from_ne_bytes(time));
                latencies::count(counts, took.ok_or("a message from the future")?);
                Ok(())
            })?;
        }
        Ok(Report {
            finished: now(),
            received: checker.accepted(),
            ..Report::default()
        })
    }
}

fn sleep_until(due: u64) -> Result<(), String> {
    let time = TimeSpec::nanoseconds(due as i64);
    loop {
        let flags = ClockNanosleepFlags::TIMER_ABSTIME;
        match clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &time) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.to_string()),
        }
    }
}
