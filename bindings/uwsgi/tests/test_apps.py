"""Several applications, mules, spoolers, workers without a master: all are in one hub."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server import HERE, SCRATCH, until
from suite import test

APP = HERE / "app.py"

# An application that needs the functions while it is imported.
IMPORTS = "from uwsgi import ChannelError, channel_join, channel_recv, channel_send\n"

MULE = """
import _thread, uwsgi
def second_thread():
    uwsgi.channel_join("to its thread")
    while True:
        if uwsgi.channel_recv(5): uwsgi.channel_send("from the mule", f"{uwsgi.mule_id()} thread")
_thread.start_new_thread(second_thread, ())
uwsgi.channel_join("to the mule")
while True:
    m = uwsgi.channel_recv_message(5)
    if m and m.body == b"die":
        1 / 0
    if m:
        uwsgi.channel_send("from the mule", f"{uwsgi.mule_id()} {m.worker} {m.body.decode()}")
"""

SPOOLER = IMPORTS + """
import uwsgi
def spooler(task):
    channel_join("to the spooler")
    channel_send("from the spooler", b"ready")
    m = uwsgi.channel_recv_message(20)
    uwsgi.channel_leave_all()
    word = task.get("word") or task.get(b"word")
    channel_send("from the spooler", b"%d %s %s" % (m.worker, word, m.body))
    return uwsgi.SPOOL_OK
uwsgi.spooler = spooler
"""


def script(name, text):
    """A file in a folder of its own; gives its path."""
    path = Path(tempfile.mkdtemp(dir=SCRATCH)) / name
    path.write_text(text)
    return path


def written(name, text):
    """The application of the other tests, with this before it."""
    return script(name, text + APP.read_text())


TWO = written("two.py", IMPORTS)


MOUNTS = {"mount": [f"/one={APP}", f"/two={TWO}"], "manage_script_name": True,
          "wsgi_file": None, "need_app": None}


@test(("processes", "threads"), **MOUNTS)
def two_mounted_applications_talk_to_each_other(server):
    """Each has an interpreter of its own."""
    talk(server)


# uWSGI's gevent engine knows one interpreter: with two it ends in a fatal error of Python.
@test(("gevent",), single_interpreter=True, **MOUNTS)
def two_mounted_applications_in_one_interpreter_talk_to_each_other(server):
    talk(server)


def talk(server):
    """A request to the second application gets what one to the first has sent."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.run, "uwsgi.channel_join('a'); "
                              "result = uwsgi.channel_recv(20)", "/two/x")
        until(lambda: stats(server)["subscriptions"] == 1, "the second has joined")
        server.run("uwsgi.channel_send('a', b'from one'); result = 1", "/one/x")
        assert waiting.result() == b"from one"
    classes = [server.run("""
try: uwsgi.channel_join("")
except uwsgi.ChannelValueError as error: result = id(type(error)), str(error)
""", path) for path in ("/one/x", "/two/x")]
    assert classes[0][1] == classes[1][1], classes
    until(lambda: stats(server)["subscriptions"] == 0, "no subscription is left")


def stats(server):
    """Asked for in the first application."""
    return server.run("result = uwsgi.channel_stats()", "/one/x")


@test(("processes", "threads", "gevent"), enable_threads=True,
      mule=[str(script("mule.py", MULE))] * 2)
def mules_send_and_receive(server):
    until(lambda: server.stats()["subscriptions"] == 4, "both threads of both mules have joined")
    ask = """
uwsgi.channel_join("from the mule")
uwsgi.channel_send("to the mule", b"hello")
uwsgi.channel_send("to its thread", b"hello")
result = sorted(uwsgi.channel_recv(20).decode().split() for _ in range(4)), uwsgi.worker_id()
"""
    got, worker = server.run(ask)
    mules = [[["%d" % mule, str(worker), "hello"], ["%d" % mule, "thread"]] for mule in (1, 2)]
    assert got == mules[0] + mules[1], got
    server.run("uwsgi.channel_send('to the mule', b'die')")
    until(lambda: server.stats()["reaped"] == 4, "both mules have died")
    until(lambda: server.stats()["subscriptions"] == 4, "both mules are back")
    assert server.run(ask)[0], "new mules answer as the old ones did"


@test(("processes", "threads"), app=written("spooler.py", SPOOLER),
      spooler="{folder}/spool")
def a_spooler_sends_and_receives(server):
    got, worker = server.run("""
uwsgi.channel_join("from the spooler")
uwsgi.spool({b"word": b"task"})
result = [uwsgi.channel_recv(20)]
uwsgi.channel_send("to the spooler", b"hello")
result = result + [uwsgi.channel_recv(20)], uwsgi.worker_id()
""")
    assert got == [b"ready", b"%d task hello" % worker], got


@test(("processes", "threads", "gevent"), master=None, master_fifo=None, processes=3)
def it_works_without_a_master(server):
    """Then worker 1 is the parent of the others, and the hub's master is a thread of it."""
    seen = set()
    end = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < end:
        worker, got = server.run("""
uwsgi.channel_join("a"); uwsgi.channel_send("a", b"x")
result = uwsgi.worker_id(), uwsgi.channel_recv(20)
__import__("time").sleep(0.01)
""")
        assert got == b"x", got
        seen.add(worker)
    assert seen, "some worker answered"


LAZY = """
import uwsgi
uwsgi.channel_join("at load")
uwsgi.channel_send("at load", b"x")
assert uwsgi.channel_recv(20) == b"x"
"""

POSTFORK = """
import uwsgi
def hook():
    uwsgi.channel_join("at the start")
uwsgi.post_fork_hook = hook
"""


@test(("processes", "threads", "gevent"), app=written("lazy.py", LAZY), lazy_apps=True)
def an_application_that_its_worker_loads_may_use_channels_at_once(server):
    """It has a core of its own, whose subscriptions do not end with a request."""
    server.run("uwsgi.channel_join('a')")
    until(lambda: server.stats()["subscriptions"] == 2, "one subscription of each worker")
    server.run("uwsgi.channel_join('a')")
    until(lambda: server.stats()["subscriptions"] == 2, "one subscription of each worker")


@test(("processes", "threads", "gevent", "greenlet"), app=written("postfork.py", POSTFORK))
def a_hook_after_the_fork_may_use_channels(server):
    until(lambda: server.stats()["subscriptions"] == 2, "one subscription of each worker")
