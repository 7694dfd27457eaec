//! What corecast wants to reach against its peers, and whether a run reached it.

use crate::findings::{Entry, Findings};
use crate::growth;
use crate::paced;
use crate::roundtrip::{APART, ONE_CPU, SPINNING};
use crate::throughput::{CPU, DELIVERIES, SENDER_CPU};
use crate::way::Way;

/// One figure that should be on the right side of a bound.
pub struct Goal {
    /// The work.
    pub work: &'static str,
    /// What is compared.
    pub what: String,
    /// What it should be.
    pub bound: Bound,
    /// What it is, if it was measured.
    pub figure: Option<f64>,
}

/// Which side is right.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Goal {
    /// Whether it is reached; None if it was not measured.
    pub fn met(&self) -> Option<bool> {
        let figure = self.figure?;
        Some(match self.bound {
            Bound::AtLeast(bound) => figure >= bound,
            Bound::AtMost(bound) => figure <= bound,
        })
    }
}

use Bound::{AtLeast, AtMost};

/// All goals, with the figures of `found`.
pub fn goals(found: &Findings) -> Vec<Goal> {
    let mut goals = Vec::new();
    throughput(found, &mut goals);
    large(found, &mut goals);
    round_trips(found, &mut goals);
    fixed_rate(found, &mut goals);
    growing(found, &mut goals);
    goals
}

fn throughput(found: &Findings, goals: &mut Vec<Goal>) {
    let mut add = |work, case: &str, way: Way, other: Way, bound| {
        let entry = found.entry("throughput", case);
        let what = format!("{} ÷ {}, deliveries", way.name(), other.name());
        let figure = entry.and_then(|entry| ratio(entry, way, other, DELIVERIES));
        goals.push(Goal {
            work,
            what,
            bound,
            figure,
        });
    };
    let one = Way::Corecast;
    add(
        "16 B, 1→1, one call per message",
        "1→1 16 B",
        one,
        Way::Relay,
        AtLeast(1.8),
    );
    add(
        "16 B, 1→1, one call per message",
        "1→1 16 B",
        one,
        Way::Zeromq,
        AtLeast(15.0),
    );
    add(
        "16 B, 1→1, one call per message",
        "1→1 16 B",
        one,
        Way::Redis,
        AtLeast(40.0),
    );
    add(
        "16 B, 1→1, send_many of 64",
        "1→1 16 B",
        Way::CorecastMany,
        Way::Relay,
        AtLeast(3.0),
    );
    add("16 B, 1→16", "1→16 16 B", one, Way::Relay, AtLeast(3.0));
    add("16 B, 1→16", "1→16 16 B", one, Way::Zeromq, AtLeast(40.0));
    add("16 B, 1→16", "1→16 16 B", one, Way::Iceoryx, AtLeast(25.0));
    add("16 B, 1→256", "1→256 16 B", one, Way::Relay, AtLeast(3.0));
    add("16 B, 4→4", "4→4 16 B", one, Way::Relay, AtLeast(2.5));
    add("16 B, 4→4", "4→4 16 B", one, Way::Iceoryx, AtLeast(12.0));
    add(
        "order promise, 4→4",
        "4→4 16 B",
        one,
        Way::CorecastPerSender,
        AtLeast(0.85),
    );
    add("64 KiB, 1→4", "1→4 64 KiB", one, Way::Iceoryx, AtLeast(1.3));
    add(
        "64 KiB, 1→16",
        "1→16 64 KiB",
        one,
        Way::Iceoryx,
        AtLeast(1.3),
    );
}

fn large(found: &Findings, goals: &mut Vec<Goal>) {
    let cost = |case| {
        found
            .entry("throughput", case)?
            .median(Way::Corecast, SENDER_CPU)
    };
    let figure = cost("1→16 64 KiB")
        .zip(cost("1→4 64 KiB"))
        .map(|(many, few)| many / few);
    goals.push(Goal {
        work: "64 KiB, 1→16",
        what: "the sender's processor time per message, 1→16 ÷ 1→4".to_owned(),
        bound: AtMost(1.3),
        figure,
    });
}

fn round_trips(found: &Findings, goals: &mut Vec<Goal>) {
    let mut add = |work, case: &str, way: Way, others: &[Way], bound| {
        let entry = found.entry("round trip", case);
        let p50 = |way: Way| entry?.median(way, "p50_us");
        let best = others
            .iter()
            .filter_map(|&other| p50(other).zip(Some(other)));
        let best = best.min_by(|one, two| one.0.total_cmp(&two.0));
        let name = best.map_or(others[0].name(), |(_, other)| other.name());
        let best_of = if others.len() > 1 {
            "the fastest peer that sleeps, "
        } else {
            ""
        };
        goals.push(Goal {
            work,
            what: format!("{} ÷ {best_of}{name}, p50", way.name()),
            bound,
            figure: p50(way).zip(best).map(|(own, (other, _))| own / other),
        });
    };
    let (thread, assist) = (Way::Corecast, Way::CorecastAssist);
    let floor = [Way::Eventfd];
    let one = "blocking round trip, one CPU";
    let lingering = [Way::CorecastLingering, Way::CorecastAssistLingering];
    let apart = "blocking round trip, apart";
    for [thread, assist] in [[thread, assist], lingering] {
        add(one, ONE_CPU, thread, &floor, AtMost(2.5));
        add(one, ONE_CPU, assist, &floor, AtMost(1.1));
        add(one, ONE_CPU, thread, &Way::SLEEPING, AtMost(1.0));
        add(one, ONE_CPU, assist, &Way::SLEEPING, AtMost(1.0));
        add(apart, APART, assist, &floor, AtMost(1.1));
        add(apart, APART, thread, &Way::SLEEPING, AtMost(1.0));
        add(apart, APART, assist, &Way::SLEEPING, AtMost(1.0));
    }
    for way in [assist, Way::CorecastPolled] {
        let peer = &[Way::Iceoryx];
        add("spinning round trip", SPINNING, way, peer, AtMost(0.7));
    }
}

fn fixed_rate(found: &Findings, goals: &mut Vec<Goal>) {
    let entry = found.entry("paced", "bursts of 50");
    let ways = [Way::Corecast, Way::CorecastPolled];
    for (other, bound) in [(Way::Relay, 0.9), (Way::Redis, 0.35)] {
        for way in ways {
            let figure = entry.and_then(|entry| {
                let cost = |way| deducted(entry, way);
                Some(cost(way)? / cost(other)?)
            });
            goals.push(Goal {
                work: "50,000 msg/s, 1→4, bursts",
                what: format!("{} ÷ {}, processor time", way.name(), other.name()),
                bound: AtMost(bound),
                figure,
            });
        }
    }
}

fn growing(found: &Findings, goals: &mut Vec<Goal>) {
    let of = |case, figure| found.entry("growth", case)?.median(Way::Corecast, figure);
    let over = |one: Option<f64>, two: Option<f64>| one.zip(two).map(|(one, two)| one / two);
    let mut add = |work, what: &str, bound, figure| {
        goals.push(Goal {
            work,
            what: what.to_owned(),
            bound: AtMost(bound),
            figure,
        });
    };
    add(
        "16 B, 1→1,024",
        "processor time per delivery, 1,024 cores ÷ 16",
        1.5,
        over(
            of("1024 subscribed cores", CPU),
            of("16 subscribed cores", CPU),
        ),
    );
    let (many, one) = ("1000000 channels", "1 channels");
    add(
        "send with no subscriber",
        "time per message, 1,000,000 channels ÷ 1",
        1.2,
        over(of(many, growth::UNHEARD), of(one, growth::UNHEARD)),
    );
    add(
        "send while 1,000,000 channels exist",
        "processor time per message, 1,000,000 channels ÷ 1",
        1.2,
        over(of(many, CPU), of(one, CPU)),
    );
}

/// Middle of the ratios of rounds that ran next to each other.
fn ratio(entry: &Entry, way: Way, other: Way, figure: &str) -> Option<f64> {
    entry.ratio(way, other, figure).map(|ratio| ratio.median)
}

/// Processor seconds of paced work without what pacing itself takes.
pub fn deducted(entry: &Entry, way: Way) -> Option<f64> {
    let pacer = entry.median(Way::Pacer, paced::CPU)?;
    Some(entry.median(way, paced::CPU)? - pacer)
}

/// One line for each goal.
pub fn lines(goals: &[Goal]) -> String {
    let line = |goal: &Goal| {
        let (met, figure) = (verdict(goal), figure(goal));
        format!(
            "{met:<8} {figure:>8}  {:<8} {}: {}\n",
            bound(goal),
            goal.work,
            goal.what
        )
    };
    goals.iter().map(line).collect()
}

/// `met`, `not met` or `-`.
pub fn verdict(goal: &Goal) -> &'static str {
    match goal.met() {
        Some(true) => "met",
        Some(false) => "not met",
        None => "-",
    }
}

/// `≥ 3` or `≤ 1.1`.
pub fn bound(goal: &Goal) -> String {
    match goal.bound {
        AtLeast(bound) => format!("≥ {bound}"),
        AtMost(bound) => format!("≤ {bound}"),
    }
}

/// The figure with two or three digits.
pub fn figure(goal: &Goal) -> String {
    goal.figure.map_or("-".to_owned(), |figure| match figure {
        value if value >= 9.95 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    })
}
