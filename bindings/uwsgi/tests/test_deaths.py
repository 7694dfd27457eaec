"""Workers that end in any way: what they had comes back at once, and others notice nothing.

A witness in one worker receives a stream of numbered messages while a victim in another, which
has joined channels and does not read them, ends. The witness gets every number once and in
order. The victim's subscriptions and slots are gone when the hub's master has heard of its end
from the kernel: a request in a third worker looks, so that the time can be told; it is shown
and not asserted. In the end all workers are killed, and nothing at all may be left.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from server import until
from suite import test

WITNESS = """
uwsgi.channel_join("stream")
open({folder!r} + "/witness", "w").write(str(uwsgi.worker_id()))
result = []
while not result or result[-1] != b"end":
    result.append(uwsgi.channel_recv(30))
    if result[-1] is None: break
"""

# Ends its request if it is asked to; mostly something else ends it.
VICTIM = """
import os
if uwsgi.worker_id() != {witness}:
    for name in ("stream", "one", "two"): uwsgi.channel_join(name)
    {action}
    open({folder!r} + "/victim", "w").write(f"{{uwsgi.worker_id()}} {{os.getpid()}}")
    while not os.path.exists({folder!r} + "/stop"): uwsgi.channel_wait(None, 0.01)
    result = "ended"
"""

SEND = """
if uwsgi.worker_id() != {victim}:
    for n in range({first}, {first} + 50): uwsgi.channel_send("stream", str(n), timeout=10)
    result = {first} + 50
"""

# Only from a worker that stays: gives when no more than so many subscriptions are left.
LOOK = """
import time
if uwsgi.worker_id() != {victim}:
    end = time.monotonic() + 25
    while uwsgi.channel_stats()["subscriptions"] > {left} and time.monotonic() < end:
        uwsgi.channel_wait(None, 0.0005)
    result = time.monotonic(), uwsgi.channel_stats()
"""


class Scene:
    """A server with a witness, a victim, and a stream of messages between them."""

    def __init__(self, server, pool):
        self.server, self.pool = server, pool
        self.folder = str(server.folder)
        self.sent = 0

    def read(self, name):
        """What a request has written into a file, once it is there."""
        path = self.server.folder / name
        return until(lambda: path.exists() and path.read_text().split(), f"{name} is ready")

    def elsewhere(self, code):
        """Runs code until it was in a worker where it does something: not the victim."""
        def met():
            try:
                return self.server.run(code)
            except ConnectionError:  # the victim's last
                return None
        return until(met, "a request meets the right worker")

    def begin(self, action):
        """Starts the witness, then the victim."""
        self.seen = self.pool.submit(self.server.run, WITNESS.format(folder=self.folder))
        self.witness = int(self.read("witness")[0])
        victim = VICTIM.format(folder=self.folder, witness=self.witness, action=action)
        self.held = self.pool.submit(self.hold, victim)
        self.victim, self.pid = map(int, self.read("victim"))

    def hold(self, code):
        """The victim's request: how it ends."""
        try:
            return until(lambda: self.server.run(code), "a request meets another worker")
        except ConnectionError:
            return "cut"

    def send(self):
        """The next fifty numbers, from a worker that stays."""
        self.sent = self.elsewhere(SEND.format(victim=self.victim, first=self.sent))

    def finish(self):
        """Ends the stream; the witness has seen all of it, once, in order."""
        self.elsewhere(f"uwsgi.channel_send('stream', 'end'); result = {self.victim}")
        assert self.seen.result() == [b"%d" % n for n in range(self.sent)] + [b"end"]


def nothing_is_left(server, descriptors):
    """Kills every worker: then the hub is as new, and has the descriptors that it began with.
    (While workers live, it has one for each that has used channels.)"""
    for pid in server.run("result = [w['pid'] for w in uwsgi.workers()]"):
        os.kill(pid, signal.SIGKILL)
    stats = until(lambda: empty(server), "nothing is left of any worker")
    assert stats["quarantined"] == stats["violations"] == 0, stats
    server.has_again(descriptors)


def empty(server):
    """The counters, if nobody has anything."""
    try:
        stats = server.stats()
    except OSError:
        return None
    return stats if not stats["cores"] + stats["subscriptions"] + stats["channels"] else None


def one_worker_ends(server, how, action="pass", by_itself=False):
    """The whole scene; `how` ends the victim, given its pid. Gives how long that took."""
    before = server.descriptors()
    with ThreadPoolExecutor() as pool:
        scene = Scene(server, pool)
        scene.begin(action)
        scene.send()
        assert server.stats()["subscriptions"] == 4
        look = pool.submit(scene.elsewhere, LOOK.format(victim=scene.victim, left=1))
        ended = how(scene.pid)
        scene.send()
        seen, stats = look.result()
        assert stats["subscriptions"] == 1, stats
        for _ in range(5):
            scene.send()
        scene.finish()
        outcome = scene.held.result()
    assert outcome == ("ended" if by_itself else "cut"), outcome
    nothing_is_left(server, before)
    # uWSGI's async engine sleeps for whole seconds: what looked may have come late.
    shown = ended and server.mode != "greenlet"
    return f"gone after {1000 * (seen - ended):.1f} ms" if shown else ""


def sends(number):
    """Ends a process by a signal; gives when that was."""
    def how(pid):
        now = time.monotonic()
        os.kill(pid, number)
        return now
    return how


@test(("processes", "threads", "gevent", "greenlet"), processes=4)
def a_killed_worker_leaves_nothing_behind(server):
    return one_worker_ends(server, sends(signal.SIGKILL))


@test(("processes", "threads", "gevent"), processes=4)
def a_worker_that_crashes_leaves_nothing_behind(server):
    return one_worker_ends(server, sends(signal.SIGSEGV))


# Where a worker serves one request at a time: the end of any other would call harakiri off.
@test(("processes",), processes=4)
def a_worker_that_harakiri_kills_leaves_nothing_behind(server):
    return one_worker_ends(server, lambda pid: None, "uwsgi.set_user_harakiri(3)")


@test(("processes", "threads"), processes=4)
def a_worker_that_is_terminated_leaves_nothing_behind(server):
    return one_worker_ends(server, sends(signal.SIGTERM))


@test(("processes", "threads", "gevent"), processes=4)
def a_worker_that_is_reloaded_leaves_nothing_behind(server):
    # A worker of 2.0.21 may hang, when none but it knows of the reload: see the README.
    if server.mode == "threads" and server.flavour.version.startswith("2.0.21"):
        return "left out"

    def reload(pid):
        os.kill(pid, signal.SIGHUP)
        (server.folder / "stop").touch()
    return one_worker_ends(server, reload, by_itself=True)


@test(("processes",), processes=3)
def a_master_that_is_killed_is_an_exception_for_who_still_sends_or_waits(server):
    """uWSGI's workers end soon after their master, but not before their request."""
    waits = "uwsgi.channel_join('a'); result = uwsgi.channel_recv(None)"
    sends = """
uwsgi.channel_join("a")
while True: uwsgi.channel_send("b", b"x" * 1000, timeout=1)
"""
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(server.post, code) for code in (waits, sends)]
        until(lambda: server.stats()["subscriptions"] == 2, "both have joined")
        server.process.kill()
        for answer in answers:
            status, body = answer.result()
            assert status == 500 and "uwsgi.ChannelMasterGone: " in body, body


@test(("processes", "threads", "gevent"), worker_reload_mercy=1)
def a_chain_reload_leaves_nothing_behind(server):
    """Workers are replaced one by one; requests that do not end are cut when mercy ends."""
    hold = "for n in range(5): uwsgi.channel_join(f'r{n}')\nuwsgi.channel_recv(25)"
    before = server.descriptors()
    pids = set(server.run("result = [w['pid'] for w in uwsgi.workers()]"))

    def held():
        try:
            server.run(hold)
        except OSError:
            pass
    with ThreadPoolExecutor() as pool:
        pool.submit(held)
        until(lambda: server.stats()["subscriptions"] == 5, "a request has joined")
        server.fifo("c")
        until(lambda: replaced(server, pids), "all workers are new")
    until(lambda: server.stats()["subscriptions"] == 0, "nothing is subscribed")
    nothing_is_left(server, before)


def replaced(server, pids):
    """True if no worker is one of those."""
    try:
        now = server.run("result = [w['pid'] for w in uwsgi.workers()]")
    except OSError:
        return False
    return not pids & set(now) and all(os.path.exists(f"/proc/{pid}") for pid in now)


@test(("processes", "threads", "gevent"))
def a_reload_of_all_makes_the_channels_anew(server):
    """The master runs itself anew; so does the hub, and nothing of the old one stays open."""
    before = server.descriptors()
    server.run("uwsgi.channel_join('a'); uwsgi.channel_send('a', b'x')")
    until(lambda: server.stats()["messages"] == 1, "a message was routed")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: renewed(server), "the counters begin again")
    assert server.run("uwsgi.channel_join('a'); uwsgi.channel_send('a', b'new'); "
                      "result = uwsgi.channel_recv(10)") == b"new"
    nothing_is_left(server, before)
    assert server.stop() == 0


def renewed(server):
    """True if a new hub answers."""
    try:
        return server.stats()["messages"] == 0
    except (OSError, AssertionError):
        return False
