//! Random situations without end, or until so many points and kills have been reached.

use std::time::{Duration, Instant};

use corecast::Overflow;
use indicatif::{ProgressBar, ProgressStyle};

use crate::common::Rng;
use crate::figures::Figures;
use crate::stage::Stage;
use crate::sweep::{Recoveries, kill, snapshots, stop};
use crate::victim::{Call, Fill, Scenario};

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

/// Runs to the numbers that the environment asks for.
pub fn run() -> Figures {
    let short = if cfg!(debug_assertions) { 10 } else { 1 };
    let (points, kills) = (
        wanted("POINTS", 50_000 / short),
        wanted("KILLS", 500 / short),
    );
    let stops = wanted("STOPS", 50 / short);
    let seed = wanted("SEED", 1);
    let (mut rng, mut figures) = (Rng::new(seed), Figures::default());
    let progress = Progress::new(points, kills);
    while figures.recoveries < points || figures.kills < kills || figures.stops < stops {
        let scenario = random(&mut rng);
        figures.scenarios += 1;
        let which = if figures.recoveries < points {
            Recoveries::All
        } else {
            Recoveries::WhereChanged
        };
        let path = snapshots(&mut Stage::new(scenario), scenario, which, &mut figures);
        let mut stage = Stage::new(scenario);
        // Evenly, so that both numbers are reached at about the same time.
        let share = figures.recoveries.min(points) * kills / points.max(1);
        let mut left = (share.max(1) + 1).saturating_sub(figures.kills).min(kills);
        if figures.recoveries >= points {
            left = kills.saturating_sub(figures.kills).min(path.len() as u64);
        }
        for _ in 0..left {
            let steps = rng.below(path.len() as u64 + 1) as usize;
            kill(&mut stage, scenario, &path, steps, &mut figures);
        }
        if figures.stops < stops && scenario.overflow != Overflow::Block {
            let steps = rng.below(path.len() as u64 + 1) as usize;
            stop(&mut stage, scenario, &path, steps, MEANWHILE, &mut figures);
        }
        progress.show(&figures);
    }
    figures
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
    }
}

/// A bar on a terminal, a line a minute elsewhere.
struct Progress {
    bar: ProgressBar,
    kills: u64,
    told: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(points: u64, kills: u64) -> Self {
        let bar = ProgressBar::new(points + kills);
        let style = "{elapsed_precise} [{wide_bar}] {percent}% {msg} eta {eta}";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        Self {
            bar,
            kills,
            told: std::cell::Cell::new(Instant::now()),
        }
    }

    fn show(&self, figures: &Figures) {
        let kills = figures.kills.min(self.kills);
        self.bar.set_position(figures.recoveries + kills);
        let faulty = if figures.faults.any() {
            "FAULTS"
        } else {
            "no fault"
        };
        let text = format!("{} recoveries, {kills} kills, {faulty}", figures.recoveries);
        if self.bar.is_hidden() && self.told.get().elapsed() > EVERY {
            self.told.set(Instant::now());
            println!("{text}");
        }
        self.bar.set_message(text);
    }
}
