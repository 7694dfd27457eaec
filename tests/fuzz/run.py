#!/usr/bin/env python3
"""Fuzzes the router (see rig/mod.rs): builds the targets with coverage, replays the seeds, then
lets libFuzzer look for more. Last, the control: a planted double fetch must be found.

    run.py --target-dir DIR [--seconds N] [--address]

Needs a Rust toolchain and a C++ compiler. --address adds AddressSanitizer, for which the toolchain
must be a nightly one.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOST = "x86_64-unknown-linux-gnu"
TARGETS = ("worker", "region")
# What cargo-fuzz passes to rustc, by way of options that a stable one takes.
COVERAGE = [
    "--cfg=fuzzing",
    "--cfg=corecast_fuzz",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
]


def build(target_dir, address):
    """Builds the targets; returns the folder that they are in."""
    flags = COVERAGE + (["-Zsanitizer=address"] if address else [])
    env = dict(os.environ, RUSTFLAGS=" ".join(flags), CARGO_TARGET_DIR=str(target_dir))
    cargo = [os.environ.get("CARGO", "cargo")] + (["+nightly"] if address else [])
    # With --target, build scripts and macros are built without these flags.
    command = [*cargo, "build", "--release", "--target", HOST]
    subprocess.run(command, cwd=HERE, env=env, check=True)
    return target_dir / HOST / "release"


def fuzz(program, seconds, corpus, found, planted=False, quiet=True):
    """Runs a target; returns its exit status and what it printed."""
    env = dict(os.environ, CORECAST_SEEDS=str(corpus), ASAN_OPTIONS="detect_leaks=0")
    if planted:
        env["CORECAST_PLANT"] = "1"
    options = [f"-max_total_time={seconds}", "-timeout=20", "-max_len=600", "-print_final_stats=1"]
    command = [program, *options, f"-artifact_prefix={found}/", corpus]
    run = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, errors="replace")
    lines = []
    for line in run.stdout:
        lines.append(line)
        if not quiet and line.startswith("#"):
            print("   ", line, end="", flush=True)
    return run.wait(), "".join(lines)


def figure(text, name):
    match = re.search(rf"{name}:?\s+(\d+)", text)
    return int(match[1]) if match else 0


def check_target(program, seconds, work, quiet):
    corpus, found = work / program.name, work / f"{program.name}-found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    status, text = fuzz(program, seconds, corpus, found, quiet=quiet)
    runs, covered = figure(text, "stat::number_of_executed_units"), figure(text, "cov")
    if status != 0:
        print(text[-6000:])
        sys.exit(f"{program.name}: the router can be harmed; the input is in {found}")
    if runs < 400:
        sys.exit(f"{program.name}: only {runs} runs, fewer than there are seeds")
    print(f"    {program.name}: {runs} runs, coverage {covered}, no harm done", flush=True)


def check_control(program, seconds):
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        status, text = fuzz(program, seconds, corpus, Path(folder), planted=True)
    caught = re.search(r"panicked at .*\n(.*)|(SEGV|overflow) on", text)
    if status == 0 or not caught:
        sys.exit(f"control: a planted double fetch was not found in {seconds} s")
    runs = max(map(int, re.findall(r"^#(\d+)", text, re.M)), default=0)
    when = f"after {runs} runs" if runs else "by the first seeds"
    print(f"    control: a planted double fetch is found {when}: {caught[1] or caught[0]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=25, help="for each target")
    parser.add_argument("--address", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="libFuzzer's own progress")
    args = parser.parse_args()
    programs = build(args.target_dir.absolute(), args.address)
    for name in TARGETS:
        check_target(programs / name, args.seconds, args.target_dir.absolute(), not args.verbose)
    check_control(programs / TARGETS[0], args.seconds)


if __name__ == "__main__":
    main()
