//! Round trips: one worker sends, the other sends it back, one at a time.
//!
//! Everything is pinned: both workers and whatever is between them to one processor, or the two
//! workers to two, with what is between them on the first one's.

use std::time::Duration;

use crate::findings::Figures;
use crate::latencies;
use crate::link::{Link, Peer, Role, Topology, Wait};
use crate::peer;
use crate::peer::corecast::{Corecast, Drive};
use crate::pin::{self, Pinned};
use crate::shared::Shared;
use crate::support::content::{Checker, Stream};
use crate::support::crew::{Crew, Failure, Gate, Report, now};
use crate::support::round::{self, Alarm, Used};
use crate::way::Way;
use crate::work::{Case, Plan, Work};

/// Processor time of all processes per round trip.
pub const CPU: &str = "cpu_us_per_round_trip";
/// Both workers, and what is between them, on one processor.
pub const ONE_CPU: &str = "sleeping, one CPU";
/// The two workers on two.
pub const APART: &str = "sleeping, apart";
/// The same, and nobody sleeps.
pub const SPINNING: &str = "spinning, apart";

/// Bytes of a body.
const SIZE: usize = 16;
/// Round trips that are not counted at the beginning.
const WARM_UP: u64 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    wait: Wait,
    /// Processors of the first and of the second worker.
    cpus: [usize; 2],
}

/// Sleeping on one processor and on two, spinning on two.
pub fn cases(plan: &Plan) -> Vec<Case> {
    let cpus = pin::allowed();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let mut cases = vec![case(ONE_CPU, Wait::Sleep, [first, first], plan)];
    if first != last {
        cases.push(case(APART, Wait::Sleep, [first, last], plan));
        cases.push(case(SPINNING, Wait::Spin, [first, last], plan));
    }
    cases
}

fn length(plan: &Plan) -> Duration {
    let seconds = match (plan.check, plan.quick) {
        (true, _) => 0.02,
        (_, true) => 0.2,
        _ => 1.0,
    };
    Duration::from_secs_f64(seconds)
}

fn case(name: &str, wait: Wait, cpus: [usize; 2], plan: &Plan) -> Case {
    let ways = match wait {
        Wait::Sleep => [
            Way::Corecast,
            Way::CorecastLingering,
            Way::CorecastAssist,
            Way::CorecastAssistLingering,
            Way::CorecastPolled,
            Way::Eventfd,
            Way::Wakes,
        ]
        .into_iter()
        .chain(Way::SLEEPING)
        .collect(),
        Wait::Spin | Wait::Yield => vec![
            Way::CorecastAssist,
            Way::CorecastPolled,
            Way::Eventfd,
            Way::Iceoryx,
        ],
    };
    let placement = Placement { wait, cpus };
    Case {
        work: Work::Roundtrip,
        name: name.to_owned(),
        x: None,
        ways,
        seconds: length(plan).as_secs_f64() + 0.2,
        run: Box::new(move |way, plan| run(way, placement, plan)),
    }
}

fn run(way: Way, placement: Placement, plan: &Plan) -> Result<Figures, Failure> {
    match way {
        Way::Corecast => pair(|t| Corecast::prepare(t, Drive::Thread), placement, plan),
        Way::CorecastAssist => pair(|t| Corecast::prepare(t, Drive::Assisted), placement, plan),
        Way::CorecastLingering => pair(
            |t| Corecast::prepare_lingering(t, Drive::Thread),
            placement,
            plan,
        ),
        Way::CorecastAssistLingering => pair(
            |t| Corecast::prepare_lingering(t, Drive::Assisted),
            placement,
            plan,
        ),
        Way::CorecastPolled => pair(
            |t| Corecast::prepare(t, Drive::FirstWorker),
            placement,
            plan,
        ),
        Way::Eventfd => pair(peer::bare::Bells::prepare, placement, plan),
        Way::Wakes => pair(peer::wakes::Wakes::prepare, placement, plan),
        Way::Relay => pair(peer::bare::PairRelay::prepare, placement, plan),
        #[cfg(feature = "iceoryx2")]
        Way::Iceoryx | Way::IceoryxEvent => pair(peer::iceoryx::Iceoryx::prepare, placement, plan),
        #[cfg(feature = "zeromq")]
        Way::Zeromq | Way::ZeromqProxy => pair(
            |topology| peer::zeromq::Zeromq::prepare(topology, way == Way::ZeromqProxy),
            placement,
            plan,
        ),
        Way::Nats => pair(peer::nats::Nats::prepare, placement, plan),
        Way::Redis => pair(peer::redis::Redis::prepare, placement, plan),
        other => Err(Failure::Broken(format!("{} is not for this", other.name()))),
    }
}

/// One round.
fn pair<P: Peer>(
    prepare: impl FnOnce(Topology) -> Result<P, Failure>,
    placement: Placement,
    plan: &Plan,
) -> Result<Figures, Failure> {
    let before = Used::now()?;
    let _alarm = Alarm::set(plan.limit + Duration::from_secs(5));
    // What is started from here on is where the first worker is.
    let pinned = Pinned::to(placement.cpus[0])?;
    let topology = Topology::pair(SIZE, placement.wait);
    let roles = topology.roles.clone();
    let peer = prepare(topology)?;
    let counts = Shared::new(latencies::WORDS)?;
    let mut crew = Crew::new(plan.signals, plan.limit)?;
    for role in roles {
        crew.spawn(format!("worker {}", role.worker), |gate| {
            work(gate, &peer, role, placement, length(plan), &counts)
        })?;
    }
    peer.start()?;
    let (started, reports) = round::watch(&mut crew)?;
    drop(crew);
    drop(peer);
    drop(pinned);
    let trips = reports[0].sent;
    if reports[1].received != trips || trips <= WARM_UP && !plan.check {
        let text = format!("{trips} sent, {} came back", reports[1].received);
        return Err(Failure::Broken(text));
    }
    let used = Used::now()?.since(&before);
    let mut figures = Figures::new();
    latencies::quantiles(counts.words(), &mut figures);
    let seconds = (reports[0].finished - started) as f64 / 1e9;
    figures.insert("round_trips_per_s".to_owned(), trips as f64 / seconds);
    figures.insert(CPU.to_owned(), used.seconds * 1e6 / trips as f64);
    Ok(figures)
}

fn work<P: Peer>(
    gate: &mut Gate,
    peer: &P,
    role: Role,
    placement: Placement,
    length: Duration,
    counts: &Shared,
) -> Result<Report, String> {
    let cpu = placement.cpus[role.worker];
    pin::pin(&[cpu]).map_err(|errno| errno.to_string())?;
    let link = peer.link(role)?;
    gate.wait()?;
    if role.worker == 0 {
        ask(link, length, counts)
    } else {
        answer(link)
    }
}

/// Sends, waits for the echo, and counts how long that took.
fn ask(mut link: impl Link, length: Duration, counts: &Shared) -> Result<Report, String> {
    let mut stream = Stream::new(0, SIZE, 1, length);
    let mut checker = Checker::new(1, SIZE);
    while stream.next_group().is_some() {
        let began = now();
        link.send(1, |body| stream.fill(body))?;
        let due = stream.sent();
        while checker.accepted() < due {
            link.receive(|body| checker.accept(body).map(|_| ()))?;
        }
        if due > WARM_UP {
            latencies::count(counts.words(), now() - began);
        }
    }
    let finished = now();
    link.finish()?;
    Ok(Report {
        finished,
        sent: stream.sent(),
        ..Report::default()
    })
}

/// Checks what comes and sends it back.
fn answer(mut link: impl Link) -> Result<Report, String> {
    let mut checker = Checker::new(1, SIZE);
    let mut bodies: Vec<[u8; SIZE]> = Vec::new();
    while !checker.finished() {
        link.receive(|body| {
            checker.accept(body)?;
            bodies.push(body.try_into().map_err(|_| "a body of another size")?);
            Ok(())
        })?;
        for body in bodies.drain(..) {
            link.send(1, |out| out.copy_from_slice(&body))?;
        }
    }
    link.finish()?;
    Ok(Report {
        finished: now(),
        received: checker.accepted(),
        ..Report::default()
    })
}
