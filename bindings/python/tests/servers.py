"""Starting servers for tests, and talking to them."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, TypeVar

T = TypeVar("T")
PATIENCE = 45.0  # seconds


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def eventually(look: Callable[[], T | None], what: str) -> T:
    """What ``look`` returns, once it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


class Server:
    """A server under test; its output goes to a file."""

    def __init__(self, command: list[str], folder: Path, port: int) -> None:
        self.port = port
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def get(self, path: str) -> str | None:
        """The body of an answer, or None when there was none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        with suppress(ProcessLookupError):  # whoever of its session is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[Server]:
    server = Server([sys.executable, "-m", *command], folder, port)
    try:
        yield server
    except BaseException:
        print(server.log.read_text(errors="replace")[-8000:])
        raise
    finally:
        server.stop()
