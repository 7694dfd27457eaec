//! Random situations without end, or until so many points and kills have been reached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use corecast::Overflow;
use indicatif::{ProgressBar, ProgressStyle};

use crate::common::{self, Child, Rng, fork, shared_words};
use crate::figures::Figures;
use crate::realm::{Reign, Work};
use crate::stage::Stage;
use crate::sweep::{Recoveries, kill, snapshots, stop};
use crate::throne::{self, PARTS};
use crate::victim::{Call, Fill, Scenario, Stream};

const CALLS: [Call; 19] = [
    Call::Send,
    Call::SendUnheard,
    Call::SendElsewhere,
    Call::SendTo,
    Call::SendMany,
    Call::Loan,
    Call::LoanDropped,
    Call::Recv,
    Call::RecvAll,
    Call::Join,
    Call::JoinRoom,
    Call::JoinTooMany,
    Call::Open,
    Call::Close,
    Call::Leave,
    Call::LeaveAll,
    Call::Attach,
    Call::Detach,
    Call::Drop,
];

/// Messages that the others exchange while a victim is stopped.
const MEANWHILE: u64 = 10_000;
/// How often a line is printed where there is no terminal for a bar.
const EVERY: Duration = Duration::from_secs(60);

/// In one situation out of so many every point gets a recovery; in the others those do where
/// shared memory has changed.
const ALL_EVERY: u64 = 4;

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
struct Goal {
    points: u64,
    kills: u64,
    stops: u64,
    master_points: u64,
}

impl Goal {
    fn of_environment() -> Self {
        let short = if cfg!(debug_assertions) { 10 } else { 1 };
        Self {
            points: wanted("POINTS", 100_000 / short),
            kills: wanted("KILLS", 500 / short),
            stops: wanted("STOPS", 50 / short),
            master_points: wanted("MASTERS", 20_000 / short),
        }
    }

    fn share(self, workers: u64) -> Self {
        Self {
            points: self.points.div_ceil(workers),
            kills: self.kills.div_ceil(workers),
            stops: self.stops.div_ceil(workers),
            master_points: self.master_points.div_ceil(workers),
        }
    }
}

/// Runs to the numbers that the environment asks for, in as many processes.
pub fn run() -> Figures {
    let goal = Goal::of_environment();
    let (seed, workers) = (wanted("SEED", 1), wanted("WORKERS", 1).max(1));
    println!("{goal:?}, seed {seed}, workers {workers}");
    let start = Instant::now();
    let tallies: Vec<Tally> = (0..workers).map(|_| Tally::new()).collect();
    let mut children: Vec<Child> = (0..workers)
        .map(|n| {
            let tally = tallies[n as usize];
            fork(|| {
                common::stay_on_nth_cpu(n as usize);
                work(goal.share(workers), seed.wrapping_add(n), tally);
            })
        })
        .collect();
    let progress = Progress::new(goal);
    loop {
        let over = children.iter_mut().all(Child::has_ended);
        let (workers, masters) = Tally::sum(&tallies);
        progress.show(&workers, &masters);
        if over {
            progress.bar.finish_and_clear();
            println!("masters: {masters}\nin {:?}; workers:", start.elapsed());
            let mut all = workers;
            all.faults += masters.faults;
            let faulty = all.faults.any();
            all.first = faulty.then(|| "see above".into());
            return all;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One process of those that run.
fn work(goal: Goal, seed: u64, tally: Tally) {
    let (mut rng, mut figures) = (Rng::new(seed), Figures::default());
    let mut masters = Figures::default();
    let mut said = false;
    while figures.points < goal.points
        || figures.kills < goal.kills
        || figures.stops < goal.stops
        || masters.points < goal.master_points
    {
        if figures.points < goal.points || figures.kills < goal.kills || figures.stops < goal.stops
        {
            a_worker(goal, &mut rng, &mut figures);
        }
        // Evenly, so that all numbers are reached at about the same time.
        let due = goal.master_points * figures.points.min(goal.points) / goal.points.max(1);
        if masters.points < due {
            throne::die_at_each_instruction(reign(&mut rng), 1, 100_000, &mut masters);
        }
        tally.tell(&figures, &masters);
        for first in [&figures.first, &masters.first] {
            if let (false, Some(first)) = (said, first) {
                said = true;
                common::say(&format!("seed {seed}: {first}\n"));
            }
        }
    }
}

fn a_worker(goal: Goal, rng: &mut Rng, figures: &mut Figures) {
    let scenario = random(rng);
    figures.scenarios += 1;
    let which = if figures.points < goal.points && rng.one_in(ALL_EVERY) {
        Recoveries::All
    } else {
        Recoveries::WhereChanged
    };
    let path = snapshots(&mut Stage::new(scenario), scenario, which, figures);
    let mut stage = Stage::new(scenario);
    let share = figures.points.min(goal.points) * goal.kills / goal.points.max(1);
    let mut left = (share.max(1) + 1)
        .saturating_sub(figures.kills)
        .min(goal.kills);
    if figures.points >= goal.points {
        left = goal
            .kills
            .saturating_sub(figures.kills)
            .min(path.len() as u64);
    }
    for _ in 0..left {
        let steps = rng.below(path.len() as u64 + 1) as usize;
        kill(&mut stage, scenario, &path, steps, figures);
    }
    let share = figures.points.min(goal.points) * goal.stops / goal.points.max(1);
    let left = share.max(1).saturating_sub(figures.stops);
    let may_be_stopped = super::may_be_stopped(scenario);
    for _ in 0..if may_be_stopped { left.min(32) } else { 0 } {
        let steps = rng.below(path.len() as u64 + 1) as usize;
        stop(&mut stage, scenario, &path, steps, MEANWHILE, figures);
    }
}

/// A situation of a master.
fn reign(rng: &mut Rng) -> Reign {
    let work =
        [Work::FanOut, Work::Join, Work::Leave, Work::Reap, Work::Run][rng.below(5) as usize];
    let overflow = [Overflow::DropNewest, Overflow::DropOldest, Overflow::Block];
    let overflow = overflow[rng.below(3) as usize];
    // Where the router waits for the slowest, nobody could be answered.
    let may_be_behind = overflow != Overflow::Block || work == Work::FanOut;
    Reign {
        work,
        after: rng.one_in(3).then(|| rng.below(PARTS as u64 + 1) as usize),
        messages: 1 + rng.below(10),
        overflow,
        unread: if may_be_behind { rng.below(24) } else { 0 },
        awaits: rng.one_in(2),
    }
}

/// The figures of one process, where the others see them.
#[derive(Clone, Copy)]
struct Tally(&'static [AtomicU64]);

impl Tally {
    fn new() -> Self {
        Self(shared_words(2 * Figures::WORDS))
    }

    fn tell(self, workers: &Figures, masters: &Figures) {
        let words = workers.words().into_iter().chain(masters.words());
        for (to, word) in self.0.iter().zip(words) {
            to.store(word, Ordering::SeqCst);
        }
    }

    fn sum(all: &[Self]) -> (Figures, Figures) {
        let sums: Vec<u64> = (0..2 * Figures::WORDS)
            .map(|i| all.iter().map(|t| t.0[i].load(Ordering::SeqCst)).sum())
            .collect();
        let (workers, masters) = sums.split_at(Figures::WORDS);
        (Figures::of_words(workers), Figures::of_words(masters))
    }
}

fn wanted(what: &str, default: u64) -> u64 {
    let value = std::env::var(format!("CORECAST_CRASH_{what}"));
    value.map_or(default, |text| text.parse().expect("a number"))
}

fn random(rng: &mut Rng) -> Scenario {
    let call = CALLS[rng.below(CALLS.len() as u64) as usize];
    let len = match rng.below(3) {
        0 => 16 + rng.below(48),
        1 => 16 + rng.below(600),
        _ => 16 + rng.below(1484),
    } as usize;
    let overflow = [Overflow::DropNewest, Overflow::DropOldest, Overflow::Block];
    let overflow = overflow[rng.below(3) as usize];
    // A lane, or a queue, of so many bytes.
    let mut fill = |bytes: usize| match rng.below(6) {
        0..=2 => Fill::Empty,
        3 | 4 => Fill::Some(rng.below((bytes / (len + 32)) as u64 + 1)),
        _ => Fill::Full,
    };
    let (lane, mail) = (fill(4096), fill(8192));
    let assists = rng.one_in(8);
    let stream = match rng.below(8) {
        0 if !assists => Stream::Goes,
        1 if !assists => Stream::Ended,
        2 if !assists && len < 100 => Stream::Run,
        _ => Stream::No,
    };
    Scenario {
        call,
        // Each message received costs a victim that is to receive them all some thousand steps.
        len: if call == Call::RecvAll {
            len.max(400)
        } else {
            len
        },
        lead: rng.below(8),
        lane,
        mail,
        overflow,
        assists,
        stream,
    }
}

/// A bar on a terminal, a line a minute elsewhere.
struct Progress {
    bar: ProgressBar,
    goal: Goal,
    start: Instant,
    told: std::cell::Cell<Instant>,
}

impl Progress {
    /// Of the whole, in parts of a thousandth.
    const WHOLE: u64 = 1000;

    fn new(goal: Goal) -> Self {
        let bar = ProgressBar::new(Self::WHOLE);
        let style = "{elapsed_precise} [{wide_bar}] {percent}% {msg} eta {eta}";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        let now = Instant::now();
        Self {
            bar,
            goal,
            start: now,
            told: std::cell::Cell::new(now),
        }
    }

    /// By what takes longest: real kills, then points.
    fn done(&self, figures: &Figures) -> u64 {
        let part = |now: u64, goal: u64| now.min(goal) * Self::WHOLE / goal.max(1);
        let (kills, points) = (
            part(figures.kills, self.goal.kills),
            part(figures.points, self.goal.points),
        );
        kills.min(points)
    }

    fn show(&self, workers: &Figures, masters: &Figures) {
        let done = self.done(workers);
        self.bar.set_position(done);
        let faulty = if workers.faults.any() || masters.faults.any() {
            "FAULTS"
        } else {
            "no fault"
        };
        let text = format!(
            "{} points, {} recoveries, {} kills, {} points of masters, {faulty}",
            workers.points, workers.recoveries, workers.kills, masters.points
        );
        if self.bar.is_hidden() && self.told.get().elapsed() > EVERY {
            self.told.set(Instant::now());
            let left = self.start.elapsed().as_secs() * (Self::WHOLE - done) / done.max(1);
            println!("{}%: {text}, eta {left} s", done / 10);
        }
        self.bar.set_message(text);
    }
}
