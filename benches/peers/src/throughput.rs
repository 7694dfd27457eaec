//! Throughput: senders send as fast as they can, receivers check everything.

use std::time::Duration;

use crate::findings::Figures;
use crate::link::{Link, Peer, Topology, Wait};
use crate::peer;
use crate::support::content::{Checker, GROUP, Stream, group_of};
use crate::support::crew::{Crew, Failure, Gate, Report, now};
use crate::support::figures::Round;
use crate::support::hub::Settings;
use crate::support::matrix::{self, Cell};
use crate::support::round::{self, Alarm, Used};
use crate::way::Way;
use crate::work::{Case, Plan, Work};

/// Messages sent per second.
pub const PUBLISHED: &str = "published_per_s";
/// Messages received per second, by all receivers together.
pub const DELIVERIES: &str = "deliveries_per_s";
/// Processor time of all processes per delivery.
pub const CPU: &str = "cpu_ns_per_delivery";

/// Processor time of the senders per message.
pub const SENDER_CPU: &str = "sender_cpu_ns_per_message";

/// Fan-outs, as (senders, receivers).
const FANS: [(u32, u32); 7] = [(1, 1), (1, 4), (1, 16), (1, 64), (1, 256), (4, 4), (4, 16)];

/// The matrix.
pub fn cells() -> Vec<Cell> {
    matrix::with_fans(&FANS)
}

/// One case for each of `cells`.
pub fn cases(cells: &[Cell], plan: &Plan) -> Vec<Case> {
    cells.iter().map(|&cell| case(cell, plan)).collect()
}

fn case(cell: Cell, plan: &Plan) -> Case {
    let mut ways = vec![
        Way::Corecast,
        Way::CorecastMany,
        Way::Relay,
        Way::Iceoryx,
        Way::Zeromq,
        Way::ZeromqProxy,
        Way::Nats,
        Way::Redis,
    ];
    if cell.senders > 1 {
        ways.insert(2, Way::CorecastPerSender);
    }
    Case {
        work: Work::Throughput,
        name: cell.to_string(),
        x: Some(f64::from(cell.receivers)),
        ways,
        seconds: plan.length.as_secs_f64() + 0.1 + 0.004 * f64::from(cell.receivers),
        run: Box::new(move |way, plan| run(way, cell, plan).map(|round| figures(&round))),
    }
}

fn figures(round: &Round) -> Figures {
    let mut figures = Figures::new();
    let mut set = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    set(PUBLISHED, round.published as f64 / round.seconds);
    set(DELIVERIES, round.deliveries as f64 / round.seconds);
    set(CPU, round.cpu_seconds * 1e9 / round.deliveries as f64);
    set(
        SENDER_CPU,
        round.sender_cpu_seconds * 1e9 / round.published as f64,
    );
    set("seconds", round.seconds);
    set("late_s", round.late_seconds);
    set(
        "sleeps_per_message",
        round.sleeps as f64 / round.published as f64,
    );
    if let Some(wakes) = round.wakes {
        set("wakes_per_message", wakes as f64 / round.published as f64);
    }
    figures
}

fn run(way: Way, cell: Cell, plan: &Plan) -> Result<Round, Failure> {
    match way {
        Way::Corecast => own(round::Way::One, cell, plan, false),
        Way::CorecastMany => own(round::Way::Many, cell, plan, false),
        Way::CorecastPerSender => own(round::Way::One, cell, plan, true),
        Way::Relay => own(round::Way::Relay, cell, plan, false),
        #[cfg(feature = "iceoryx2")]
        Way::Iceoryx => fan(peer::iceoryx::Iceoryx::prepare, cell, polling(cell), plan),
        #[cfg(feature = "zeromq")]
        Way::Zeromq | Way::ZeromqProxy => fan(
            |topology| peer::zeromq::Zeromq::prepare(topology, way == Way::ZeromqProxy),
            cell,
            Wait::Sleep,
            plan,
        ),
        Way::Nats => fan(peer::nats::Nats::prepare, cell, Wait::Sleep, plan),
        Way::Redis => fan(peer::redis::Redis::prepare, cell, Wait::Sleep, plan),
        other => Err(Failure::Broken(format!("{} is not for this", other.name()))),
    }
}

/// How pollers wait: by themselves where everybody has a processor, else letting others run.
#[cfg(feature = "iceoryx2")]
fn polling(cell: Cell) -> Wait {
    let workers = (cell.senders + cell.receivers) as usize;
    if workers <= crate::pin::allowed().len() {
        Wait::Spin
    } else {
        Wait::Yield
    }
}

/// corecast and the relay, as the prefork bench runs them.
fn own(way: round::Way, cell: Cell, plan: &Plan, per_sender: bool) -> Result<Round, Failure> {
    let plan_of_matrix = round::Plan {
        rounds: plan.rounds,
        length: plan.length,
        limit: plan.limit,
        batch: GROUP,
        settings: Settings {
            per_sender,
            ..Settings::default()
        },
    };
    round::run(way, cell, &plan_of_matrix, plan.signals)
}

/// One round of a peer.
pub fn fan<P: Peer>(
    prepare: impl FnOnce(Topology) -> Result<P, Failure>,
    cell: Cell,
    wait: Wait,
    plan: &Plan,
) -> Result<Round, Failure> {
    let before = Used::now()?;
    let _alarm = Alarm::set(plan.limit + Duration::from_secs(5));
    let topology = Topology::fan(cell, wait);
    let roles = topology.roles.clone();
    let peer = prepare(topology)?;
    let mut crew = Crew::new(plan.signals, plan.limit)?;
    for role in roles {
        if role.hears.is_some() {
            crew.spawn(format!("receiver {}", role.worker), |gate| {
                receive(gate, peer.link(role)?, cell)
            })?;
        } else {
            crew.spawn(format!("sender {}", role.worker), |gate| {
                send(
                    gate,
                    peer.link(role)?,
                    role.worker as u32,
                    cell,
                    plan.length,
                )
            })?;
        }
    }
    peer.start()?;
    let times = round::watch(&mut crew)?;
    drop(crew);
    // The server's processor time counts once it has been waited for.
    drop(peer);
    round::figure(cell, plan.length, times, None, Used::now()?.since(&before))
}

fn send(
    gate: &mut Gate,
    mut link: impl Link,
    index: u32,
    cell: Cell,
    length: Duration,
) -> Result<Report, String> {
    let group = group_of(cell.size, GROUP);
    gate.wait()?;
    let mut stream = Stream::new(index, cell.size, group, length);
    while let Some(count) = stream.next_group() {
        link.send(count, |body| stream.fill(body))?;
    }
    link.finish()?;
    Ok(Report {
        finished: now(),
        sent: stream.sent(),
        ..Report::default()
    })
}

fn receive(gate: &mut Gate, mut link: impl Link, cell: Cell) -> Result<Report, String> {
    let mut checker = Checker::new(cell.senders, cell.size);
    gate.wait()?;
    while !checker.finished() {
        link.receive(|body| checker.accept(body).map(|_| ()))?;
    }
    Ok(Report {
        finished: now(),
        received: checker.accepted(),
        ..Report::default()
    })
}
