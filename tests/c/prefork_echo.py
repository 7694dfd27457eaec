#!/usr/bin/env python3
"""Drives prefork_echo: two clients on different workers, a killed worker, a clean end.

Called by run.py with the command that starts the server.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time

LIMIT = 60


class Client:
    """A connection, and the worker that serves it."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self.file = self.socket.makefile("rb")
        greeting = re.fullmatch(rb"worker (\d+) pid (\d+)\n", self.file.readline())
        assert greeting, "the server greets with its worker and pid"
        self.worker, self.pid = int(greeting[1]), int(greeting[2])

    def say(self, line):
        """Sends a line."""
        self.socket.sendall(line + b"\n")

    def hear(self):
        """The next line, or b"" at the end of the connection."""
        return self.file.readline().rstrip(b"\n")

    def close(self):
        """Ends the connection."""
        self.file.close()
        self.socket.close()


def until(port, wanted):
    """Connects until the worker is wanted; gives the client."""
    spare = []
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        client = Client(port)
        if wanted(client):
            for other in spare:
                other.close()
            return client
        # Kept open: a busy worker leaves the next one to the others.
        spare.append(client)
        time.sleep(0.01)
    raise AssertionError("no connection was served by the worker asked for")


def chat(one, two, prefix):
    """Each says something that both hear, in the same order."""
    for i in range(20):
        one.say(b"%s one %d" % (prefix, i))
        two.say(b"%s two %d" % (prefix, i))
    heard = [[client.hear() for _ in range(40)] for client in (one, two)]
    assert heard[0] == heard[1], f"one order for all: {heard}"
    for who in (b"one", b"two"):
        said = [line for line in heard[0] if b" " + who + b" " in line]
        assert said == [b"%s %s %d" % (prefix, who, i) for i in range(20)], heard[0]


def drive(server):
    """The whole story; raises if anything is not as it must be."""
    port = int(re.fullmatch(r"listening on port (\d+)\n", server.stdout.readline())[1])
    one = Client(port)
    two = until(port, lambda c: c.worker != one.worker)
    chat(one, two, b"before")

    os.kill(two.pid, signal.SIGKILL)
    assert two.hear() == b"", "the killed worker's client sees the end"
    again = until(port, lambda c: c.worker == two.worker and c.pid != two.pid)
    chat(one, again, b"after")

    server.send_signal(signal.SIGTERM)
    assert server.wait(LIMIT) == 0, f"exit code {server.returncode}"


def main():
    """Starts the server, drives it, and ends it whatever happens."""
    server = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
    print("started", server.pid, flush=True)
    try:
        drive(server)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
