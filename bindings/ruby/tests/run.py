#!/usr/bin/env python3
"""Runs the example under Puma: all workers hear each line once, in one order; killed workers come
back and hear and are heard; bad input is a Ruby exception."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

RUBY = Path(__file__).resolve().parent.parent
WATCHDOG = 60  # seconds: what takes longer hangs
WORKERS = 3

BAD_INPUT = """
require "%s/lib/corecast"
hub = Corecast::Hub.new(workers: 1, max_message: 100).start
core = hub.attach(0)
def refused(kind, text)
  yield
  abort "not refused: #{text}"
rescue kind => error
  abort "#{error.message}: no #{text}" unless error.message.include?(text)
end
refused(Corecast::Error, "101") { core.send("a", "x" * 101) }
refused(Corecast::Error, "empty") { core.join("") }
refused(Corecast::Error, "255") { core.join("x" * 256) }
refused(Corecast::Error, "not joined") { core.leave("a") }
refused(Corecast::Error, "worker 0") { hub.attach(0) }
refused(ArgumentError, "NUL") { core.join("a\\0b") }
refused(ArgumentError, "no setting colour") { Corecast::Hub.new(colour: 1) }
abort "from nowhere" if core.recv
core.join("a").send("a", "bin\\0ary")
message = core.recv(5000)
abort message.inspect unless message.body == "bin\\0ary" && message.name == "a" && message.lost == 0
core.detach
hub.destroy
puts "refused as it should be"
"""


def until(look, what):
    """Waits until a look gives something true, and gives that."""
    deadline = time.monotonic() + WATCHDOG
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.05)
    return found


class Puma:
    """The example under Puma; its output goes to a file."""

    def __init__(self, folder, env):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = Path(folder) / "puma.log"
        env = dict(env, BIND=f"tcp://127.0.0.1:{self.port}")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["puma", "-C", "puma.rb", "config.ru"],
                cwd=RUBY / "example", env=env, stdout=log, stderr=log, start_new_session=True,
            )

    def ask(self, line=None):
        """What a worker has heard, or the answer to a line that it is to say: its pid, and lines."""
        url = f"http://127.0.0.1:{self.port}/"
        data = None if line is None else line.encode()
        try:
            with urllib.request.urlopen(url, data, timeout=5) as answer:
                pid = int(answer.headers.get("x-worker", 0))
                return pid, answer.read().decode().splitlines()
        except OSError:
            return None

    def everybody(self):
        """What each of the workers that answer has heard, by pid, once all of them have answered."""
        heard = {}

        def all_answered():
            assert self.process.poll() is None, self.log.read_text()
            if answer := self.ask():
                heard[answer[0]] = answer[1]
            for pid in [pid for pid in heard if not alive(pid)]:
                del heard[pid]
            return len(heard) == WORKERS

        until(all_answered, "all workers answer")
        return heard

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(WATCHDOG)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def said(lines):
    """The lines without their speakers."""
    return [line.partition(": ")[2] for line in lines]


def chat(puma):
    puma.everybody()
    sent = []

    def say(text):
        until(lambda: puma.ask(text), f"{text!r} is said")
        sent.append(text)

    for number in range(30):
        say(f"line {number}")
    until(lambda: all(said(h) == sent for h in puma.everybody().values()), "everybody hears")
    killed = set()
    for number in range(3):
        victim = next(iter(puma.everybody()))
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
        until(lambda: not alive(victim), "a killed worker is gone")
        heirs = puma.everybody()
        assert not killed & set(heirs), heirs
        say(f"after death {number}")
        until(
            lambda: all(said(h)[-1:] == sent[-1:] for h in puma.everybody().values()),
            "the others and the new one hear",
        )
    orders = [said(h) for h in puma.everybody().values()]
    for order in orders:
        # Each has heard all since it came, each line once, in the order of all.
        assert order == sent[len(sent) - len(order):], (order, sent)
    speakers = {line.partition(":")[0] for h in puma.everybody().values() for line in h}
    print(f"{len(sent)} lines, {len(killed)} workers killed, said by workers {sorted(speakers)}: "
          f"each heard once, in one order")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, required=True, help="libcorecast.so")
    args = parser.parse_args()
    env = dict(os.environ, CORECAST_LIBRARY=str(args.library.resolve()))
    subprocess.run(["ruby", "-e", BAD_INPUT % RUBY], env=env, check=True, timeout=WATCHDOG)
    with tempfile.TemporaryDirectory() as folder:
        puma = Puma(folder, env)
        try:
            chat(puma)
        except BaseException:
            print(puma.log.read_text(), file=sys.stderr)
            raise
        finally:
            code = puma.end()
        # 143 or -SIGTERM: Puma tells that it was asked to end.
        assert code in (0, 143, -signal.SIGTERM), (code, puma.log.read_text())
    print("2 passed, 0 failed")


main()
