#!/usr/bin/env python3
"""Runs cluster.js under `corecast run`: its workers hear each other, one is killed again and again,
and the worker that Node starts in its place hears and is heard too. The hub has two seats, so
each successor has to get the seat of its predecessor."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
WATCHDOG = 60  # seconds: what takes longer hangs


def until(look, what):
    """Waits until a look gives something true, and gives that."""
    deadline = time.monotonic() + WATCHDOG
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)
    return found


class Cluster:
    """The cluster under the launcher; its output goes to a file."""

    def __init__(self, corecast, library, modules):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = modules / "log"
        # Two cores for each worker, and seats for two.
        command = [corecast, "run", "--workers", "2", "--cores", "2", "--", "node",
                   HERE / "cluster.js", self.port]
        env = dict(os.environ, CORECAST_LIBRARY=str(library), NODE_PATH=str(modules / "node_modules"))
        with self.log.open("w") as log:
            self.process = subprocess.Popen([str(word) for word in command], env=env, stdout=log,
                                            stderr=log, start_new_session=True)

    def ask(self, path="/"):
        """What a worker says of itself; None if none answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=3) as answer:
                return json.loads(answer.read())
        except OSError:
            return None

    def workers(self, but=()):
        """The pids of two workers that answer, none of them those."""
        found = set()

        def both():
            state = self.ask()
            found.update({state["pid"]} - set(but) if state else ())
            return len(found) == 2
        until(both, f"two workers besides {but}")
        return found

    def all_hear(self, workers):
        """What one says, all hear."""
        said = until(lambda: self.ask("/say"), "an answer")["pid"]
        deaf = set(workers)

        def look():
            state = self.ask()
            if state and str(said) in state["heard"]:
                deaf.discard(state["pid"])
            return not deaf
        until(look, f"{workers} to hear {said}")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            print(self.log.read_text()[-8000:])
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def check(cluster):
    """See above."""
    workers = cluster.workers()
    cluster.all_hear(workers)
    for _ in range(5):
        victim = min(workers)
        os.kill(victim, signal.SIGKILL)
        workers = cluster.workers(but=[victim])
        cluster.all_hear(workers)
    cluster.process.send_signal(signal.SIGTERM)
    code = cluster.process.wait(WATCHDOG)
    assert code == 128 + signal.SIGTERM, f"the launcher's exit code is {code}"


def main():
    """Installs what package.json names, and runs the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corecast", type=Path, required=True, help="the program")
    parser.add_argument("--library", type=Path, required=True, help="libcorecast.so")
    parser.add_argument("--build", type=Path, required=True, help="directory for npm's packages")
    args = parser.parse_args()
    build = args.build.resolve()
    build.mkdir(parents=True, exist_ok=True)
    lock = HERE / "package-lock.json"
    installed = build / "installed"
    if not installed.exists() or installed.read_text() != lock.read_text():
        shutil.copy(HERE / "package.json", build)
        shutil.copy(lock, build)
        subprocess.run(["npm", "ci", "--silent", "--ignore-scripts"], cwd=build, check=True)
        installed.write_text(lock.read_text())
    start = time.monotonic()
    with Cluster(args.corecast.resolve(), args.library.resolve(), build) as cluster:
        check(cluster)
    print(f"  a Node cluster: five workers killed and replaced, all heard ok "
          f"({time.monotonic() - start:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
