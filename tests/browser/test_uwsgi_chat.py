"""The chat of the uWSGI plugin's README, over uWSGI's own WebSockets, in two windows."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from servers import Server, eventually
from uwsgi import serving as running
from window import elsewhere

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "bindings" / "uwsgi" / "README.md").read_text()
ESTABLISHED = "01"  # in /proc/net/tcp


def chat(folder: Path) -> None:
    """The files that the README shows, as it shows them."""
    section = README[README.index("\n## A chat\n") :]
    for before, text in re.findall(r"(.*?)\n```\w+\n(.*?)```", section, re.S):
        name = re.findall(r"`(\w+\.(?:ini|py))`", before)
        if name:
            (folder / name[-1]).write_text(text)


@pytest.fixture
def server(tmp_path: Path):
    chat(tmp_path)
    with running((tmp_path / "chat.ini").read_text(), tmp_path, "/") as server:
        yield server


def connections(pid: int, port: int) -> set[str]:
    """The connections that a process serves on a port: the inodes of their sockets."""
    served = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == ESTABLISHED:
            served.add(fields[9])
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(os.readlink(descriptor))
        except OSError:
            continue  # closed meanwhile
    return {inode for inode in served if f"socket:[{inode}]" in held}


def serving(server: Server) -> dict[int, int]:
    """How many WebSockets each process of the server has that has any."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    counts = {}
    for pid in map(int, children.split()):
        try:
            counts[pid] = len(connections(pid, server.port))
        except FileNotFoundError:
            continue  # it has just ended
    return {pid: count for pid, count in counts.items() if count}


def test_two_windows_on_two_workers_chat_while_a_worker_is_killed(server: Server, windows) -> None:
    ann, bob = windows(f"http://127.0.0.1:{server.port}/", said="#list li", line="#text")
    spread: list[int] = elsewhere(
        bob,
        lambda: sorted(serving(server).values()) if sum(serving(server).values()) == 2 else [],
        [2],
        bob.driver.refresh,
    )
    assert spread == [1, 1], "one window on each of two workers"

    def said(window) -> list[str]:
        return [line.partition(": ")[2] for line in window.lines()]

    def all_hear(*lines: str) -> None:
        heard = [list(lines)] * 2
        eventually(lambda: [said(ann), said(bob)] == heard, f"{lines} in both pages")

    ann.say("hello from one worker")
    all_hear("hello from one worker")
    bob.say("hello from another")
    all_hear("hello from one worker", "hello from another")
    ann.photograph("uwsgi-chat")

    victim = next(iter(serving(server)))
    os.kill(victim, signal.SIGKILL)
    eventually(
        lambda: victim not in serving(server) and sum(serving(server).values()) == 2,
        "the page whose worker was killed to connect again",
    )
    bob.say("still here")
    all_hear("hello from one worker", "hello from another", "still here")
    ann.say("so am I")
    all_hear("hello from one worker", "hello from another", "still here", "so am I")
    ann.photograph("uwsgi-chat-after-a-kill")
