//! The guard against slowly getting slower: instructions per operation, counted by callgrind and
//! compared with `benches/instructions.json`. A busy machine does not change them.
//!
//! `make check-costs` fails when a count is more than 3 % above its baseline, `make accept-costs`
//! writes new baselines. Another compiler makes other instructions: a baseline of another one is
//! held against counts with a tolerance of 25 %, and the program says so.
//!
//! The program runs itself under valgrind, once for each case; callgrind collects only while
//! [`corecast_measured`] runs.

mod support {
    pub mod rig;
}

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use serde::{Deserialize, Serialize};

use support::rig::{CHANNEL, Rig};

const BASELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");
/// How much a count may be above its baseline, percent.
const TOLERANCE: f64 = 3.0;
const TOLERANCE_OTHER_COMPILER: f64 = 25.0;
/// Operations of one measured call; small enough for the lane and a queue.
const COUNT: u64 = 1024;
const BODY: [u8; 16] = [7; 16];
const BATCH: usize = 64;
/// Further counts of a case, of which the lowest is taken.
const AGAIN: usize = 4;

/// Instructions per operation on the hot paths, against committed baselines.
#[derive(Parser)]
#[command(name = "instructions", version)]
struct Args {
    /// Make the counts found the new baselines.
    #[arg(long)]
    accept: bool,
    /// Compare with the baselines (the default).
    #[arg(long)]
    check: bool,
    /// Only run the cases, outside of valgrind.
    #[arg(long, hide = true)]
    test: bool,
    /// Run one case, for valgrind to look at.
    #[arg(long, hide = true)]
    case: Option<String>,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One thing whose instructions are counted.
struct Case {
    name: &'static str,
    receivers: u32,
    assist: bool,
    /// Brings the hub into the state that `work` needs.
    prepare: fn(&mut Rig),
    /// `COUNT` operations.
    work: fn(&mut Rig),
    /// Empties lane and queues.
    finish: fn(&mut Rig),
}

const CASES: [Case; 11] = [
    case("send", 1, nothing, send, drain),
    case("send by name", 1, nothing, send_by_name, drain),
    case("send_many", 1, nothing, send_many, drain),
    case("recv", 1, fill, recv, nothing),
    case("recv_many", 1, fill, recv_many, nothing),
    case("step, no subscriber", 0, send, route, nothing),
    case("step, 1 subscriber", 1, send, route, take),
    case("step, 16 subscribers", 16, send, route, take),
    case("step, 64 subscribers", 64, send, route, take),
    Case {
        assist: true,
        ..case("round trip, assisted", 1, sleep, round_trips, nothing)
    },
    case("join and leave", 1, nothing, join_and_leave, nothing),
];

const fn case(
    name: &'static str,
    receivers: u32,
    prepare: fn(&mut Rig),
    work: fn(&mut Rig),
    finish: fn(&mut Rig),
) -> Case {
    Case {
        name,
        receivers,
        assist: false,
        prepare,
        work,
        finish,
    }
}

fn nothing(_: &mut Rig) {}

fn send(rig: &mut Rig) {
    rig.send(COUNT, black_box(&BODY));
}

fn send_by_name(rig: &mut Rig) {
    for _ in 0..COUNT {
        rig.sender
            .send(black_box(CHANNEL), black_box(&BODY))
            .expect("room in the lane");
    }
}

fn send_many(rig: &mut Rig) {
    let bodies = [&BODY[..]; BATCH];
    for _ in 0..COUNT / BATCH as u64 {
        let taken = rig.sender.send_many_to(rig.channel, black_box(&bodies));
        assert_eq!(taken, Ok(BATCH));
    }
}

fn fill(rig: &mut Rig) {
    send(rig);
    route(rig);
}

fn recv(rig: &mut Rig) {
    for _ in 0..COUNT {
        let message = rig.receivers[0].recv().expect("nothing lost");
        black_box(message.expect("a message").body);
    }
}

fn recv_many(rig: &mut Rig) {
    let messages = rig.receivers[0].recv_many().expect("nothing lost");
    let mut count = 0;
    for message in messages.expect("messages") {
        black_box(message.body);
        count += 1;
    }
    assert_eq!(count, COUNT);
}

fn route(rig: &mut Rig) {
    rig.route();
}

fn take(rig: &mut Rig) {
    rig.take(COUNT, &BODY);
}

fn drain(rig: &mut Rig) {
    rig.drain(COUNT, &BODY);
}

/// Each with the pass of the router that carries it out.
fn join_and_leave(rig: &mut Rig) {
    for _ in 0..COUNT {
        let ticket = rig.sender.join_async("visited").expect("room in the lane");
        rig.master.step();
        let answer = rig.sender.join_result(ticket).expect("answered");
        answer.expect("a subscription");
        rig.sender.leave("visited").expect("a subscription to end");
        rig.master.step();
        // What tells of the operations' place in the stream must not fill the queue.
        assert!(rig.sender.recv().expect("nothing lost").is_none());
    }
}

const BACK: &str = "back";

/// The master sleeps from here on, and the sender hears what the receiver says.
fn sleep(rig: &mut Rig) {
    let ticket = rig.sender.join_async(BACK).expect("room in the lane");
    rig.route();
    let joined = rig.sender.join_result(ticket).expect("answered");
    joined.expect("a subscription");
    // The first may find that there is more to do, and say so by its descriptor.
    for _ in 0..2 {
        rig.master.poll(Some(Duration::ZERO)).expect("a pass");
    }
    // So that the sender's last word is long ago.
    std::thread::sleep(Duration::from_millis(1));
}

/// Each with two passes of the router, which sender and receiver carry out, and two notifications.
fn round_trips(rig: &mut Rig) {
    let (there, back) = (&mut rig.sender, &mut rig.receivers[0]);
    for _ in 0..COUNT {
        there.send_to(rig.channel, black_box(&BODY)).expect("room");
        for (to, answers) in [(&mut *back, true), (&mut *there, false)] {
            let message = to.recv().expect("nothing lost").expect("a message");
            assert_eq!(message.body, BODY);
            assert!(to.recv().expect("nothing lost").is_none());
            if answers {
                // Another type of name than above: that case has its own copy of the call.
                to.send(BACK.as_bytes(), black_box(&BODY)).expect("room");
            }
        }
    }
}

/// What callgrind collects: `--toggle-collect` knows it by its name.
#[unsafe(no_mangle)]
#[inline(never)]
fn corecast_measured(rig: &mut Rig, work: fn(&mut Rig)) {
    work(rig);
}

/// Once to warm up, once to be counted.
fn perform(case: &Case) {
    let mut rig = match case.assist {
        true => Rig::assisted(),
        false => Rig::new(case.receivers),
    };
    (case.prepare)(&mut rig);
    (case.work)(&mut rig);
    (case.finish)(&mut rig);
    (case.prepare)(&mut rig);
    corecast_measured(&mut rig, case.work);
    (case.finish)(&mut rig);
}

/// The committed counts and what made them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Baselines {
    /// What `rustc --version` said.
    compiler: String,
    /// Instructions per operation.
    instructions: BTreeMap<String, f64>,
}

impl Baselines {
    fn count() -> Result<Baselines, String> {
        let instructions = CASES
            .iter()
            .map(|case| Ok((case.name.to_owned(), under_callgrind(case.name)?)));
        Ok(Baselines {
            compiler: compiler(),
            instructions: instructions.collect::<Result<_, String>>()?,
        })
    }

    /// Counts again what `is_wanted`, and keeps the lower counts. Copying takes one of several ways
    /// by where in memory things come to lie, which differs a little from run to run.
    fn count_again(&mut self, is_wanted: impl Fn(&str, f64) -> bool) -> Result<(), String> {
        for (name, count) in &mut self.instructions {
            for _ in 0..AGAIN {
                if is_wanted(name, *count) {
                    *count = count.min(under_callgrind(name)?);
                }
            }
        }
        Ok(())
    }

    fn read() -> Result<Baselines, String> {
        let text = std::fs::read_to_string(BASELINES).map_err(|e| format!("{BASELINES}: {e}"))?;
        serde_json::from_str(&text).map_err(|e| format!("{BASELINES}: {e}"))
    }

    fn write(&self) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        std::fs::write(BASELINES, text + "\n").map_err(|e| format!("{BASELINES}: {e}"))
    }
}

fn compiler() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let said = Command::new(rustc).arg("--version").output();
    said.map_or_else(
        |_| "unknown".to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

/// Instructions per operation of one case.
fn under_callgrind(case: &str) -> Result<f64, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let file = std::env::temp_dir().join(format!("corecast-{}.callgrind", std::process::id()));
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=corecast_measured")
        // The same copying on every processor, in steps that count: `rep movsb` counts its bytes.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-ERMS,-FSRM,-AVX512VL,-AVX512F,-AVX2",
        )
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(this)
        .args(["--case", case])
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(format!("{case}: {}: {said}", out.status));
    }
    let total = total_of(&file);
    // Only left behind if it cannot be removed; the next one has another name.
    let _ = std::fs::remove_file(&file);
    Ok((total? as f64 / COUNT as f64 * 100.0).round() / 100.0)
}

/// The total of a callgrind file: its `totals:` line.
fn total_of(file: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse().ok());
    match total {
        Some(total) if total > 0 => Ok(total),
        _ => Err("callgrind counted nothing".to_owned()),
    }
}

/// How far counts may be above these baselines, percent.
fn tolerance(found: &Baselines, baselines: &Baselines) -> f64 {
    if found.compiler == baselines.compiler {
        TOLERANCE
    } else {
        TOLERANCE_OTHER_COMPILER
    }
}

fn is_too_high(count: f64, baseline: f64, tolerance: f64) -> bool {
    count > baseline * (1.0 + tolerance / 100.0)
}

/// Prints every count beside its baseline; true when none is too high.
fn compare(found: &Baselines, baselines: &Baselines) -> bool {
    let tolerance = tolerance(found, baselines);
    if found.compiler != baselines.compiler {
        let (theirs, ours) = (&baselines.compiler, &found.compiler);
        println!("baselines of {theirs}, this is {ours}: tolerance {tolerance} %");
    }
    let mut passed = found.instructions.keys().eq(baselines.instructions.keys());
    if !passed {
        println!("the baselines are of other cases");
    }
    for (name, &count) in &found.instructions {
        let baseline = baselines.instructions.get(name).copied().unwrap_or(0.0);
        let too_high = is_too_high(count, baseline, tolerance);
        let (change, verdict) = (
            (count / baseline - 1.0) * 100.0,
            if too_high { "TOO HIGH" } else { "" },
        );
        println!(
            "{name:<22} {count:>10.2}  baseline {baseline:>10.2}  {change:>+7.2} %  {verdict}"
        );
        passed &= !too_high;
    }
    passed
}

/// Shows that the comparison refuses what it must: a check that cannot fail proves nothing.
fn prove_comparison(baselines: &Baselines) -> Result<(), String> {
    let mut worse = baselines.clone();
    let limit = 1.0 + tolerance(&worse, baselines) / 100.0;
    worse
        .instructions
        .values_mut()
        .for_each(|count| *count *= limit + 0.01);
    let refused = |found: &Baselines| {
        found.instructions.iter().any(|(name, &count)| {
            is_too_high(
                count,
                baselines.instructions[name],
                tolerance(found, baselines),
            )
        })
    };
    if refused(&worse) && !refused(baselines) {
        Ok(())
    } else {
        Err("the comparison refuses the wrong counts".to_owned())
    }
}

fn guard(args: &Args) -> Result<bool, String> {
    let mut found = Baselines::count()?;
    if args.accept {
        found.count_again(|_, _| true)?;
        found.write()?;
        println!("written to {BASELINES}");
    }
    let baselines = Baselines::read()?;
    prove_comparison(&baselines)?;
    let tolerance = tolerance(&found, &baselines);
    found.count_again(|name, count| {
        let baseline = baselines.instructions.get(name);
        baseline.is_some_and(|&baseline| is_too_high(count, baseline, tolerance))
    })?;
    let passed = compare(&found, &baselines);
    if !passed {
        println!("if it is meant to be so: make accept-costs");
    }
    Ok(passed)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.case {
        let case = CASES.iter().find(|case| case.name == name);
        perform(case.expect("a case of that name"));
        return ExitCode::SUCCESS;
    }
    if args.test {
        CASES.iter().for_each(perform);
        return ExitCode::SUCCESS;
    }
    match guard(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("instructions: {text}");
            ExitCode::FAILURE
        }
    }
}
