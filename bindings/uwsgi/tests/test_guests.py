"""A process that uWSGI knows nothing of takes part through the socket of channels-socket."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server import until
from suite import test

# The C library by ctypes: the Python package is not needed for it.
GUEST = """
import ctypes, os, sys
lib = ctypes.CDLL(sys.argv[1])
lib.channel_last_error.restype = ctypes.c_char_p

def call(function, *args):
    result = getattr(lib, function)(*args)
    assert result >= 0, (function, lib.channel_last_error())
    return result

hub, core, any = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint32(0xffffffff)
call("channel_hub_connect", sys.argv[2].encode(), 20000, ctypes.byref(hub))
call("channel_attach", hub, any, any, ctypes.byref(core))
call("channel_join", core, b"to guests", None)
call("channel_send", core, b"to workers", b"from outside", ctypes.c_size_t(12))
print("in", flush=True)
sys.stdin.readline()
"""

JOIN = """
uwsgi.channel_join("to workers")
open({folder!r} + "/joined", "w").close()
message = uwsgi.channel_recv_message(30)
result = message.body, message.worker
"""


def library():
    """libcorecast.so of the installed tree."""
    flags = subprocess.run(["pkg-config", "--variable=libdir", "corecast"], check=True,
                           capture_output=True, text=True)
    return Path(flags.stdout.strip()) / "libcorecast.so"


class Guest:
    """One such process."""

    def __init__(self, name):
        command = [sys.executable, "-c", GUEST, library(), name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.process.kill()
        self.process.communicate()


NAME = f"@corecast-uwsgi-{os.getpid()}"


@test(("processes", "gevent"), **{"channels-socket": NAME + "-{folder}"})
def a_process_outside_connects_and_its_death_is_noticed(server):
    name = NAME + f"-{server.folder}"
    with ThreadPoolExecutor() as pool:
        heard = pool.submit(server.run, JOIN.format(folder=str(server.folder)))
        until((server.folder / "joined").exists, "a request listens")
        with Guest(name) as guest:
            assert heard.result() == (b"from outside", 0)
            until(lambda: server.stats()["subscriptions"] == 1, "the request's has ended")
            guest.process.send_signal(signal.SIGKILL)
            until(lambda: server.stats()["subscriptions"] == 0, "its subscription ends")
    assert server.stats()["reaped"] == 1
    # All eight seats, and one more process.
    guests = [Guest(name) for _ in range(8)]
    try:
        for each in guests:
            assert each.process.stdout.readline() == "in\n"
        ninth = subprocess.run([sys.executable, "-c", GUEST, library(), name], input="",
                               capture_output=True, text=True)
        assert "all 8 seats" in ninth.stderr, ninth.stderr
    finally:
        for each in guests:
            each.__exit__(None, None, None)


@test(**{"channels-socket": "{folder}/channels.sock"})
def a_reload_opens_the_socket_anew_and_a_stop_removes_it(server):
    path = server.folder / "channels.sock"
    with Guest(str(path)) as guest:
        assert guest.process.stdout.readline() == "in\n"
    first = path.stat().st_ctime_ns  # inodes are used again
    server.fifo("r")
    until(lambda: path.exists() and path.stat().st_ctime_ns != first, "another socket")
    until(server.answers, "the server answers again")
    with Guest(str(path)) as guest:
        assert guest.process.stdout.readline() == "in\n"
    server.stop()
    assert not path.exists()
