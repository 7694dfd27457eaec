"""The chat of examples/, under gunicorn with uvicorn workers, driven by two browser windows."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from servers import Server, eventually, free_port, running
from window import Window, elsewhere

ROOT = Path(__file__).resolve().parents[2]
CHAT = ROOT / "bindings" / "python" / "examples" / "chat"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for file in CHAT.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "app:application"]
    with running(command, tmp_path, port) as server:
        eventually(lambda: server.get("/tea/size"), "an answer")
        yield server


def worker(window: Window) -> int:
    """The worker that the window is connected to; 0 for none."""
    body = window.driver.find_element(By.TAG_NAME, "body")
    return int(body.get_attribute("data-worker") or 0)


def size(server: Server) -> Any:
    return json.loads(server.get("/tea/size") or '{"size": 0}')["size"]


def test_two_windows_on_two_workers_chat_while_a_worker_is_killed(server: Server, windows) -> None:
    ann, bob = windows(f"http://127.0.0.1:{server.port}/tea/", said="#lines li", line="#line")
    first = eventually(lambda: worker(ann), "a connection")
    elsewhere(bob, lambda: worker(bob), first, bob.driver.refresh)
    eventually(lambda: size(server) == 2, "two members")
    ann.say("hello, is anybody there?")
    bob.hears("hello, is anybody there?")
    bob.say("yes, on another worker")
    for window in (ann, bob):
        window.hears("yes, on another worker")
        assert window.lines() == ["hello, is anybody there?", "yes, on another worker"]
    ann.photograph("chat")

    os.kill(first, signal.SIGKILL)
    eventually(lambda: worker(ann) not in (0, first), "the page to connect again")
    eventually(lambda: size(server) == 2, "two members again, none of the dead worker's")
    bob.say("still here")
    for window in (ann, bob):
        window.hears("still here")
    ann.photograph("chat-after-a-kill")
    bob.driver.execute_script("socket.onclose = null; socket.close()")
    eventually(lambda: size(server) == 1, "one member after the other left")
