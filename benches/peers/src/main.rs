//! corecast beside what could be used instead of it: the same work between real forked processes,
//! verified by sequence and content, in one run with rounds that take turns.
//!
//! `make bench` installs the peers, builds this and runs all of it.

#![cfg_attr(
    not(all(feature = "zeromq", feature = "iceoryx2")),
    allow(dead_code, reason = "what only these peers need")
)]

mod charts;
mod counters;
mod daemon;
mod findings;
mod goals;
mod growth;
mod latencies;
mod link;
mod paced;
mod page;
mod peer;
mod pin;
mod roundtrip;
mod shared;
mod support;
mod table;
mod throughput;
mod way;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use findings::{Findings, Seen};
use support::content;
use support::crew::{Failure, Signals};
use support::machine::Machine;
use support::matrix::Cell;
use way::Way;
use work::{Case, Plan, Step, Work};

/// Measures corecast beside bare floors, iceoryx2, ZeroMQ, NATS and Redis on the same work.
#[derive(Parser)]
#[command(name = "peers", version)]
struct Args {
    /// Only these groups of work.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Work::value_variants().iter().copied())]
    work: Vec<Work>,
    /// Only these ways.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Way::all().iter().copied())]
    peer: Vec<Way>,
    /// Only cases whose name contains this, as in "16 B" (repeatable).
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Throughput of this cell instead of the whole matrix, as in 1x16:1024 (repeatable).
    #[arg(long, value_name = "SENDERSxRECEIVERS:SIZE")]
    cell: Vec<Cell>,
    /// Rounds of each way in each case; the ways take turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long the senders of a throughput round send.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    seconds: f64,
    /// One short round of everything, under three minutes; its figures are rough.
    #[arg(long, conflicts_with = "check")]
    quick: bool,
    /// Corecast and the relay once, a moment each, to see that the bench itself works.
    #[arg(long)]
    check: bool,
    /// Kill a round that takes longer than this and count it as failed.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    limit: u64,
    /// Print the cases and how long they take, and measure nothing.
    #[arg(long)]
    list: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with tables and charts into this folder.
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
    /// Read figures that --json wrote earlier; cases measured now, or in later files, replace them.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    merge: Vec<PathBuf>,
    /// Measure nothing: only put --merge files together.
    #[arg(long)]
    no_run: bool,
}

impl Args {
    fn plan<'a>(&self, signals: &'a Signals) -> Plan<'a> {
        let seconds = match (self.check, self.quick) {
            (true, _) => 0.02,
            (_, true) => 0.1,
            _ => self.seconds.clamp(0.001, 3600.0),
        };
        Plan {
            signals,
            rounds: if self.quick || self.check {
                1
            } else {
                self.rounds
            },
            length: Duration::from_secs_f64(seconds),
            limit: Duration::from_secs_f64(seconds) + Duration::from_secs(self.limit),
            quick: self.quick,
            check: self.check,
        }
    }

    fn ways(&self) -> Vec<Way> {
        let wanted = |way: &&Way| {
            !self.check
                || way.is_own()
                || matches!(way, Way::Relay | Way::Eventfd | Way::Wakes | Way::Pacer)
        };
        self.peer.iter().filter(wanted).copied().collect()
    }

    fn cases(&self, plan: &Plan) -> Vec<Case> {
        let ways = self.ways();
        let mut cases: Vec<Case> = Vec::new();
        for work in self.work.iter().filter(|_| !self.no_run) {
            cases.extend(match work {
                Work::Throughput if self.cell.is_empty() => {
                    throughput::cases(&throughput::cells(), plan)
                }
                Work::Throughput => throughput::cases(&self.cell, plan),
                Work::Roundtrip => roundtrip::cases(plan),
                Work::Paced => paced::cases(plan),
                Work::Growth => growth::cases(plan),
            });
        }
        cases.retain(|case| {
            self.only.is_empty() || self.only.iter().any(|text| case.name.contains(text))
        });
        for case in &mut cases {
            case.ways
                .retain(|way| ways.contains(way) && way.missing().is_none());
        }
        cases.retain(|case| !case.ways.is_empty());
        cases
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Interrupted) => {
            eprintln!("peers: interrupted; no process is left");
            ExitCode::from(130)
        }
        Err(Failure::Broken(text)) => {
            eprintln!("peers: {text}");
            ExitCode::FAILURE
        }
    }
}

/// True when every way passed its checks in every case.
fn run(args: &Args) -> Result<bool, Failure> {
    counters::prepare();
    let signals = Signals::block()?;
    let plan = args.plan(&signals);
    let cases = args.cases(&plan);
    let machine = Machine::read();
    let estimate: f64 = cases.iter().map(|case| case.estimate(plan.rounds)).sum();
    println!(
        "{machine}\nrounds   {}, about {estimate:.0} s in all\n",
        plan.rounds
    );
    for way in args.ways() {
        if let Some(why) = way.missing() {
            println!("not measured: {}: {why}", way.name());
        }
    }
    if args.list {
        cases
            .iter()
            .for_each(|case| println!("{} {}", case.work.name(), case.name));
        return Ok(true);
    }
    for size in [16, 1024, 65_536] {
        content::prove_checker(size).map_err(Failure::Broken)?;
    }
    let mut found = Findings {
        machine: Seen::from(&machine),
        entries: Vec::new(),
    };
    for path in &args.merge {
        found.absorb(Findings::read(path)?);
    }
    let measured = measure(&cases, &plan, &machine, estimate)?;
    let passed = measured
        .entries
        .iter()
        .flat_map(|entry| &entry.rows)
        .all(|row| row.failure.is_none());
    if !measured.entries.is_empty() {
        found.absorb(measured);
    }
    if let Some(path) = &args.json {
        found.write(path)?;
        println!("all figures: {}", path.display());
    }
    if !args.check {
        println!("{}", goals::lines(&goals::goals(&found)));
    }
    if let Some(folder) = &args.report {
        page::write(&found, folder)?;
        println!("the report: {}", folder.join("index.html").display());
    }
    Ok(passed)
}

fn measure(
    cases: &[Case],
    plan: &Plan,
    machine: &Machine,
    estimate: f64,
) -> Result<Findings, Failure> {
    let bar = progress(estimate);
    let mut found = Findings {
        machine: Seen::from(machine),
        entries: Vec::new(),
    };
    for case in cases {
        let entry = case.measure(plan, &machine.commit, &mut |step| match step {
            Step::Begins(text) => bar.set_message(text.to_owned()),
            Step::Ended(seconds) => bar.inc((seconds * 1e3) as u64),
        })?;
        bar.suspend(|| println!("{}", table::lines(&entry)));
        found.entries.push(entry);
    }
    bar.finish_and_clear();
    Ok(found)
}

/// A bar with the time left; it is drawn on a terminal only.
fn progress(estimate: f64) -> ProgressBar {
    let bar = ProgressBar::new((estimate * 1e3) as u64);
    let style = ProgressStyle::with_template("{bar:30} {percent}%  {eta} left  {msg}");
    bar.set_style(style.expect("the template is well formed"));
    bar
}
