//! One round of one way in one cell, from the first fork to the checked figures.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use corecast::Stats;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;

use super::crew::{Crew, Failure, Report, Signals};
use super::figures::Round;
use super::hub::{self, SLAB, Settings, room_for};
use super::matrix::{Cell, bytes};
use super::relay;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Way {
    /// corecast, one call per message
    One,
    /// corecast, one call per batch
    Many,
    /// the bare relay over Unix stream sockets
    Relay,
}

impl Way {
    /// All ways, in the order in which they take turns.
    pub const ALL: [Way; 3] = [Way::One, Way::Many, Way::Relay];

    /// The way's name in tables.
    pub fn name(self, batch: usize) -> String {
        match self {
            Way::One => "corecast".to_owned(),
            Way::Many => format!("corecast x{batch}"),
            Way::Relay => "relay".to_owned(),
        }
    }
}

/// What is the same for all rounds of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Rounds of each way in each cell.
    pub rounds: u32,
    /// How long senders send.
    pub length: Duration,
    /// A round that takes longer is killed.
    pub limit: Duration,
    /// Messages per call of [`Way::Many`].
    pub batch: usize,
    /// The hub's settings.
    pub settings: Settings,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            lane_bytes,
            queue_bytes,
            slab_bytes,
            spin_us,
            linger_us,
            per_sender,
            no_timestamps,
            huge_pages,
        } = self.settings;
        write!(
            f,
            "hub      lane {}, queue {}, slab {}, spin {spin_us} us, linger {linger_us} us, overflow block, \
             {} order, timestamps {}, {} pages\n\
             rounds   {} of {:?}",
            room(lane_bytes, 1),
            room(queue_bytes, 1),
            room(slab_bytes, SLAB),
            if per_sender { "per-sender" } else { "total" },
            if no_timestamps { "off" } else { "per batch" },
            if huge_pages { "huge" } else { "small" },
            self.rounds,
            self.length,
        )
    }
}

/// A setting that follows the size of the messages unless it was given.
fn room(given: Option<usize>, times: usize) -> String {
    let [small, large] = [0, usize::MAX].map(|size| bytes(times * room_for(size)));
    given.map_or(format!("{small} ({large} for large messages)"), bytes)
}

/// Runs one round; a failure leaves no process behind.
pub fn run(way: Way, cell: Cell, plan: &Plan, signals: &Signals) -> Result<Round, Failure> {
    let before = Used::now()?;
    let _alarm = Alarm::set(plan.limit + Duration::from_secs(5));
    let mut crew = Crew::new(signals, plan.limit)?;
    let (times, stats) = match way {
        Way::Relay => {
            relay::spawn(&mut crew, cell, plan.length)?;
            (watch(&mut crew)?, None)
        }
        Way::One => through_hub(crew, cell, 1, plan)?,
        Way::Many => through_hub(crew, cell, plan.batch, plan)?,
    };
    figure(cell, plan.length, times, stats, Used::now()?.since(&before))
}

/// Ends the whole program when even the end of a round hangs: a master that cannot be stopped
/// would otherwise hold it for ever. The members die with their parent.
pub struct Alarm;

impl Alarm {
    /// Counts from now; dropping it ends the count.
    pub fn set(after: Duration) -> Alarm {
        // SAFETY: `overdue` has the signature of a handler and calls only what one may call.
        unsafe {
            libc::signal(libc::SIGALRM, overdue as *const () as libc::sighandler_t);
            libc::alarm(after.as_secs().max(1) as libc::c_uint);
        }
        Alarm
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: cancels the alarm; nothing else here uses one.
        unsafe { libc::alarm(0) };
    }
}

extern "C" fn overdue(_signal: libc::c_int) {
    const TEXT: &[u8] = b"the round is over its limit, but the master does not stop\n";
    // SAFETY: write and _exit may be called in a signal handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), TEXT.len());
        libc::_exit(1);
    }
}

/// When the gate opened, and what each member reported.
pub type Times = (u64, Vec<Report>);

fn through_hub(
    mut crew: Crew,
    cell: Cell,
    batch: usize,
    plan: &Plan,
) -> Result<(Times, Option<Stats>), Failure> {
    let hub = plan.settings.hub(cell)?;
    let linger = Duration::from_micros(plan.settings.linger_us);
    hub::spawn(&mut crew, &hub, cell, batch, plan.length, linger)?;
    // Started after the last fork: a child must not inherit half of a thread.
    let master = hub
        .start()
        .map_err(|error| Failure::Broken(format!("master: {error}")))?;
    let times = watch(&mut crew);
    drop(crew);
    let stats = hub.stats();
    let stopped = master
        .stop()
        .map_err(|error| Failure::Broken(format!("master: {error}")));
    let times = times?;
    stopped?;
    Ok((times, Some(stats)))
}

/// From all members ready to all members gone.
pub fn watch(crew: &mut Crew) -> Result<Times, Failure> {
    crew.assemble()?;
    let started = crew.start();
    let reports = crew.reports()?;
    crew.disband()?;
    Ok((started, reports))
}

/// The figures of a round whose senders sent for `length`, once its totals are right.
pub fn figure(
    cell: Cell,
    length: Duration,
    (started, reports): Times,
    stats: Option<Stats>,
    used: Used,
) -> Result<Round, Failure> {
    let total = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (published, deliveries) = (total(|r| r.sent), total(|r| r.received));
    verify(cell, published, deliveries, stats.as_ref())?;
    let receivers = reports.iter().filter(|report| report.received > 0);
    let finished = receivers
        .map(|report| report.finished)
        .max()
        .unwrap_or(started);
    let senders = reports.iter().filter(|report| report.sent > 0);
    let wakes = stats.map(|stats| stats.wakes);
    let seconds = finished.saturating_sub(started).max(1) as f64 / 1e9;
    Ok(Round {
        published,
        deliveries,
        seconds,
        late_seconds: seconds - length.as_secs_f64(),
        cpu_seconds: used.seconds,
        sender_cpu_seconds: senders.map(|report| report.cpu).sum::<u64>() as f64 / 1e9,
        calls: total(|r| r.calls) + wakes.unwrap_or(0),
        wakes,
        sleeps: used.sleeps,
    })
}

/// The receivers have checked what they got; this checks that it was everything.
fn verify(
    cell: Cell,
    published: u64,
    deliveries: u64,
    stats: Option<&Stats>,
) -> Result<(), Failure> {
    let wanted = published * u64::from(cell.receivers);
    if deliveries != wanted || published == 0 {
        let text = format!("{published} sent, {deliveries} received where {wanted} were due");
        return Err(Failure::Broken(text));
    }
    match stats {
        Some(stats) if stats.lost + stats.violations + stats.quarantined > 0 => Err(
            Failure::Broken(format!("the hub counts losses or violations: {stats:?}")),
        ),
        _ => Ok(()),
    }
}

/// Processor time and sleeps of this process and of all children waited for.
pub struct Used {
    /// Processor seconds.
    pub seconds: f64,
    /// Voluntary context switches.
    pub sleeps: u64,
}

impl Used {
    /// Up to now.
    pub fn now() -> Result<Used, Failure> {
        let parts = [
            getrusage(UsageWho::RUSAGE_SELF)?,
            getrusage(UsageWho::RUSAGE_CHILDREN)?,
        ];
        Ok(Used {
            seconds: parts.iter().map(processor_seconds).sum(),
            sleeps: parts
                .iter()
                .map(|usage| usage.voluntary_context_switches() as u64)
                .sum(),
        })
    }

    /// What came after `before`.
    pub fn since(&self, before: &Used) -> Used {
        Used {
            seconds: self.seconds - before.seconds,
            sleeps: self.sleeps - before.sleeps,
        }
    }
}

fn processor_seconds(usage: &Usage) -> f64 {
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}
