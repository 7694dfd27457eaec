"""The chat of the README, line by line as it stands there, with a worker killed every second.

Fifty clients say ten lines each, in two workers. What "every client gets every line once, in one
order" means when workers die: a client whose connection breaks comes back, says how many lines it
has, and sends again those of its own that it has not seen; the room then goes on for it where it
broke off, from the history that the mule keeps. So in the end each client, whether its worker was
killed or not, has all five hundred lines, each once, in the same order as all others, and the
lines of one client in the order it said them. Afterwards, when all clients have gone, only the
mule's subscription, slot and descriptor are there, as at the start.

uWSGI serves one WebSocket in each thread or greenlet. So fifty clients that stay need as many of
them in the worker that lives (`threads = 64`, `gevent = 64`). With two threads in each worker, the
clients take turns: each stays for a moment, says its next line if it is time, goes when nothing
more comes, and comes again.
"""

import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

from server import Server, until
from suite import test
from websocket import WebSocket

CLIENTS, LINES, KILLS = 50, 10, 6
GAP = 0.65  # seconds between the lines of a client: they talk while workers are killed
WATCHDOG = 120
README = Path(__file__).parents[1] / "README.md"


def blocks(readme, language):
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.S)


class Client(threading.Thread):
    """Says its lines and collects those of all, over as many connections as it takes."""

    def __init__(self, path, number, pace, turn):
        """`turn`: seconds for which it stays at least, None: as long as it can."""
        super().__init__(daemon=True)
        self.path, self.who, self.pace, self.turn = path, f"c{number}", pace, turn
        self.seen, self.said, self.connections, self.broken = [], 0, 0, 0
        self.begin = time.monotonic() + number * GAP / CLIENTS
        self.stop = False
        self.error = None

    def run(self):
        try:
            while not self.stop and len(self.seen) < CLIENTS * LINES:
                self.come()
        except Exception as error:  # raised by the test
            self.error = error

    def come(self):
        """One connection, if there is one; then a while without."""
        before = self.connections
        try:
            self.session()
            time.sleep(GAP / 5)
        except OSError:
            self.broken += self.connections - before
            time.sleep(0.02)

    def due(self):
        """True if it wants to say another line; not before it has seen its last one."""
        now = time.monotonic()
        return self.said < LINES and self.own() == self.said and now > self.begin + self.said * GAP

    def own(self):
        """How many of its own lines it has seen: it has the first of them."""
        return sum(1 for line in self.seen if line["who"] == self.who)

    def session(self):
        """One connection, until all is there, or it breaks, or the turn is over."""
        line = WebSocket(self.path, f"/room?{len(self.seen)}", timeout=10)
        try:
            self.connections += 1
            for number in range(self.own() + 1, self.said + 1):
                self.say(line, number)
            self.stay(line)
        finally:
            line.close()

    def stay(self, line):
        """Talks and listens."""
        end = None if self.turn is None else time.monotonic() + self.turn
        while not self.stop and len(self.seen) < CLIENTS * LINES:
            if self.due():
                self.said += 1
                self.say(line, self.said)
            text = line.receive(self.pace)
            if text is not None:
                self.seen.append(json.loads(text))
            elif end and time.monotonic() > end:
                return

    def say(self, line, number):
        line.send(json.dumps({"who": self.who, "n": number, "text": f"line {number}"}))


# A mule that tells the counters of the hub, without a core of its own.
PROBE = """
import json, os, time, uwsgi
while True:
    with open("stats.new", "w") as out: json.dump(uwsgi.channel_stats(), out)
    os.rename("stats.new", "stats.json")
    time.sleep(0.02)
"""


class Chat(Server):
    """The server of the README; its own lines, but for where it listens, and the probe."""

    def __init__(self, flavour, changes):
        super().__init__(flavour)
        self.changes = [("http-socket = 127.0.0.1:8080", f"http-socket = {self.socket}"), *changes]
        if not flavour.plugins:
            self.changes.append(("plugins = python3,corecast", "plugins = corecast"))
        ini, = blocks(README, "ini")
        for old, new in self.changes:
            assert ini.count(old) == 1, f"the README's ini does not have: {old}"
            ini = ini.replace(old, new)
        _, chat, history = blocks(README, "python")
        files = {"chat.ini": ini, "chat.py": chat, "history.py": history, "probe.py": PROBE}
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def command(self):
        return [str(self.flavour.command), "--plugins-dir", str(Path(self.plugin).parent),
                "--disable-logging", "--stats", str(self.folder / "stats"), "--mule=probe.py",
                "chat.ini"]

    def answers(self):
        """True if there are workers, and the mule has joined."""
        assert self.process.poll() is None, self.said()
        ready = (self.folder / "stats.json").exists() and (self.folder / "stats").exists()
        return ready and self.stats()["subscriptions"] == 1 and self.workers()

    def stats(self):
        """The counters of a moment ago."""
        return json.loads((self.folder / "stats.json").read_text())

    def workers(self):
        """The pids of the workers that live, as uWSGI's own statistics have them."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self.folder / "stats"))
            text = b""
            while got := asked.recv(65536):
                text += got
        pids = [worker["pid"] for worker in json.loads(text)["workers"]]
        return [pid for pid in pids if alive(pid)]


def alive(pid):
    """True if it is a process that has not ended."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def killed_every_second(server, clients):
    """Kills the workers in turn, and then lets the clients finish."""
    for number in range(KILLS):
        time.sleep(1)
        pids = until(server.workers, "a worker is alive")
        os.kill(pids[number % len(pids)], signal.SIGKILL)
    end = time.monotonic() + WATCHDOG
    for client in clients:
        client.join(max(0, end - time.monotonic()))
        client.stop = True


def check(seen):
    """Every client has every line once, in one order; `seen` has what each got."""
    first = [(line["who"], line["n"]) for line in seen[0]]
    for number, lines in enumerate(seen):
        keys = [(line["who"], line["n"]) for line in lines]
        assert len(keys) == CLIENTS * LINES, f"client {number} has {len(keys)} lines"
        assert keys == first, f"client {number} has another order"
    for who in range(CLIENTS):
        own = [n for name, n in first if name == f"c{who}"]
        assert own == list(range(1, LINES + 1)), f"the lines of c{who}: {own}"


def the_check_finds_what_is_wrong(seen):
    """It fails for a line twice, one missing, and two in another order."""
    for spoil in (lambda lines: [*lines[:5], lines[4], *lines[6:]], lambda lines: lines[1:],
                  lambda lines: [lines[1], lines[0], *lines[2:]]):
        try:
            check([*seen[:-1], spoil(seen[-1])])
        except AssertionError:
            continue
        raise RuntimeError("the check is blind")


def chat(flavour, changes=(), turn=None, pace=0.05):
    """The whole test; gives a note."""
    with Chat(flavour, changes) as server:
        descriptors = server.descriptors()
        clients = [Client(server.socket, number, pace, turn) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        killed_every_second(server, clients)
        errors = [client.error for client in clients if client.error]
        assert not errors, errors
        seen = [client.seen for client in clients]
        check(seen)
        the_check_finds_what_is_wrong(seen)
        broken = sum(client.broken for client in clients)
        assert broken, "no connection has broken"
        only_the_mule_is_left(server, descriptors)
        connections = sum(client.connections for client in clients)
        return f"{KILLS} kills, {connections} connections, {broken} broken"


def only_the_mule_is_left(server, descriptors):
    """When the clients have gone and the workers have died, all is as it was at the start."""
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    server.has_again(descriptors)

    def is_as_new():
        stats = server.stats()
        return stats["subscriptions"] == stats["cores"] == stats["channels"] == 1
    until(is_as_new, "only the mule has a core and a subscription")
    stats = server.stats()
    assert stats["quarantined"] == stats["violations"] == 0, stats


# A client takes its turn; it does not wait for lines to come, and may be gone before its own.
@test(("threads",), server=False)
def two_workers_of_two_threads_and_fifty_clients_that_take_turns(flavour, mode):
    return chat(flavour, [("threads = 64", "threads = 2")], turn=0.02, pace=0.02)


@test(("threads",), server=False)
def two_workers_of_many_threads_and_fifty_clients_that_stay(flavour, mode):
    return chat(flavour)


@test(("gevent",), server=False)
def two_workers_of_many_greenlets_and_fifty_clients_that_stay(flavour, mode):
    more = "\nplugins = gevent_python3" if flavour.plugins else ""
    return chat(flavour, [("threads = 64", f"gevent = 64\nenable-threads = true{more}")])
