#!/usr/bin/env python3
"""Builds the C programs of this directory against an installed corecast and runs them.

Each program is one behaviour. It is built with what `pkg-config corecast` says,
then run by itself and under valgrind, with a watchdog. Exit code 0 is a pass,
77 a skip, anything else (a signal, a leak, a time-out) a failure. A program with
a Python script of its name beside it is a server: the script starts and drives it.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
STRICT = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
# Leaks are no errors here: run_program judges them, for the program's own process alone.
VALGRIND = [
    "valgrind", "--quiet", "--error-exitcode=99", "--fair-sched=yes",
    "--leak-check=full", "--show-leak-kinds=definite,possible", "--errors-for-leak-kinds=none",
]
SKIP = 77
PLAIN_SECONDS = 60
VALGRIND_SECONDS = 180


class Suite:
    """Counts the outcomes and prints a line for each."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def report(self, name, outcome, seconds, output=""):
        """Prints one outcome ("ok", "skip" or what went wrong), with the output if it failed."""
        print(f"  {name:<36} {outcome} ({seconds:.1f} s)", flush=True)
        if outcome == "ok":
            self.passed += 1
        elif outcome == "skip":
            self.skipped += 1
        else:
            self.failed += 1
        if outcome != "ok" and output.strip():
            print("    " + output.strip().replace("\n", "\n    "), flush=True)

    def step(self, name, check):
        """Runs a check that returns None, or the text of what is wrong."""
        start = time.monotonic()
        wrong = check()
        self.report(name, "FAILED" if wrong else "ok", time.monotonic() - start, wrong or "")
        return not wrong


def pkg_config(prefix, *args):
    """The flags that pkg-config gives for the installed tree."""
    env = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"))
    out = subprocess.run(["pkg-config", *args, "corecast"], env=env, check=True,
                         capture_output=True, text=True)
    return shlex.split(out.stdout)


def command_fails(command):
    """Runs a compiler; the text of what it said, if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return None if done.returncode == 0 else f"{shlex.join(map(str, command))}\n{done.stderr}"


def run(command, env, seconds):
    """Runs a program in a process group of its own; gives (outcome, output, pid)."""
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, start_new_session=True, errors="replace")
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        return f"FAILED: still running after {seconds} s", output, child.pid
    finally:
        kill_group(child.pid)
    outcome = {0: "ok", SKIP: "skip"}.get(child.returncode)
    return outcome or f"FAILED: exit code {child.returncode}", output, child.pid


def kill_group(group):
    """Ends what a program left behind."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def header_compiles(prefix, build):
    """The header by itself, as C11 and as C++11, with every warning an error."""
    flags = pkg_config(prefix, "--cflags")
    source = build / "header.c"
    source.write_text("#include <corecast.h>\n#include <corecast.h>\nint unused;\n")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
    for compiler in (["gcc", "-std=c11", "-Wstrict-prototypes"], ["g++", "-x", "c++", "-std=c++11"]):
        wrong = command_fails([*compiler, *warnings, *flags, "-fsyntax-only", str(source)])
        if wrong:
            return wrong
    return None


def exports_match_header(prefix):
    """The library exports the functions of the header, and no other symbol."""
    header = (prefix / "include" / "corecast.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    declared = set(re.findall(r"\b(channel_\w+)\(", code))
    listed = subprocess.run(["nm", "-D", "--defined-only", str(prefix / "lib" / "libcorecast.so")],
                            check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1].split("@")[0] for line in listed.splitlines()}
    if declared == exported and declared:
        return None
    return f"only in the header: {declared - exported}; only in the library: {exported - declared}"


def library_is_marked(prefix):
    """The SONAME carries the ABI version, and the library stays loaded (no unloading of TLS)."""
    dynamic = subprocess.run(["readelf", "-d", str(prefix / "lib" / "libcorecast.so")],
                             check=True, capture_output=True, text=True).stdout
    soname = re.search(r"SONAME\).*\[(libcorecast\.so\.\d+\.\d+)\]", dynamic)
    if not soname:
        return f"no versioned SONAME:\n{dynamic}"
    if not (prefix / "lib" / soname[1]).exists():
        return f"{soname[1]} is not installed"
    return None if "NODELETE" in dynamic else f"not linked with -z nodelete:\n{dynamic}"


def readme_shows_hello():
    """The README's C example is the program that is tested here."""
    readme = (HERE.parent.parent / "README.md").read_text()
    if f"```c\n{(HERE / 'hello.c').read_text()}```" in readme:
        return None
    return "README.md does not show tests/c/hello.c as it is"


def build_program(source, prefix, build, static=False):
    """Compiles one program; gives (path, what is wrong)."""
    target = build / (source.stem + ("_static" if static else ""))
    flags = pkg_config(prefix, "--cflags", "--libs", *(["--static"] if static else []))
    if static:
        # The archive of corecast alone: the C library stays shared.
        flags = [str(prefix / "lib" / "libcorecast.a") if f == "-lcorecast" else f for f in flags]
    else:
        flags.append(f"-Wl,-rpath,{prefix / 'lib'}")
    return target, command_fails(["gcc", *STRICT, str(source), "-o", str(target), *flags])


def run_program(suite, name, program, valgrind):
    """Runs one program, plain or under valgrind."""
    for old in valgrind_logs(program):
        old.unlink()
    env = dict(os.environ, CORECAST_TEST_SLOW="1" if valgrind else "0")
    command = [*VALGRIND, f"--log-file={program}.%p.valgrind"] if valgrind else []
    command.append(str(program))
    driver = HERE / f"{program.name}.py"
    if driver.exists():
        command = [sys.executable, str(driver), *command]
    start = time.monotonic()
    outcome, output, pid = run(command, env, VALGRIND_SECONDS if valgrind else PLAIN_SECONDS)
    started = re.search(r"^started (\d+)$", output, re.M)  # what a driver says
    first = started[1] if started else str(pid)
    wrong = "\n".join(text for log in valgrind_logs(program) for text in complaints(log, first))
    if wrong and outcome == "ok":
        outcome = "FAILED: valgrind"
    suite.report(f"{name}{' (valgrind)' if valgrind else ''}", outcome,
                 time.monotonic() - start, output + wrong)


def valgrind_logs(program):
    """The logs of a program: one for each process."""
    return list(program.parent.glob(f"{program.name}.*.valgrind"))


def complaints(log, first):
    """What valgrind found: every error of any process, and the leaks of the first.

    A forked child's leaks are not looked at: it has the heap of its parent without
    the other threads, whose blocks all look lost.
    """
    lines = re.findall(r"^==\d+== ?(.*)$", log.read_text(errors="replace"), re.M)
    is_first = log.name.split(".")[1] == first
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        if block.strip() and (is_first or "lost in loss record" not in block):
            yield block


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefix", type=Path, required=True, help="where `make install` put it")
    parser.add_argument("--build", type=Path, required=True, help="directory for the programs")
    parser.add_argument("--plain", action="store_true", help="leave valgrind out")
    parser.add_argument("names", nargs="*", help="only these programs")
    return parser.parse_args()


def main():
    """Builds and runs everything; 1 if anything failed."""
    args = parse()
    args.build.mkdir(parents=True, exist_ok=True)
    prefix = args.prefix.resolve()
    suite = Suite()
    suite.step("header compiles as C and C++", lambda: header_compiles(prefix, args.build))
    suite.step("library exports the header", lambda: exports_match_header(prefix))
    suite.step("library has SONAME and nodelete", lambda: library_is_marked(prefix))
    suite.step("README shows hello.c", readme_shows_hello)
    sources = sorted(s for s in HERE.glob("*.c") if not args.names or s.stem in args.names)
    for source in sources:
        for static in (False, True) if source.stem == "hello" else (False,):
            program, wrong = build_program(source, prefix, args.build, static)
            if wrong:
                suite.report(program.name, "FAILED to build", 0, wrong)
                continue
            run_program(suite, program.name, program, valgrind=False)
            if not args.plain:
                run_program(suite, program.name, program, valgrind=True)
    print(f"{suite.passed} passed, {suite.failed} failed, {suite.skipped} skipped")
    return 1 if suite.failed or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
