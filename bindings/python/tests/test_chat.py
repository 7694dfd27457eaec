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
from selenium import webdriver
from selenium.webdriver.common.by import By

from servers import Server, eventually, free_port, running

CHAT = Path(__file__).parent.parent / "examples" / "chat"
ARTEFACTS = Path(os.environ.get("CORECAST_ARTEFACTS", "/tmp/corecast-artefacts"))
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=560,680",
]


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


class Window:
    """One visitor's browser window."""

    def __init__(self, profile: Path, port: int) -> None:
        options = webdriver.ChromeOptions()
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        service = webdriver.ChromeService("/usr/bin/chromedriver")
        self.driver = webdriver.Chrome(options=options, service=service)
        self.url = f"http://127.0.0.1:{port}/tea/"
        self.driver.get(self.url)

    def worker(self) -> int:
        """The worker it is connected to; 0 for none."""
        body = self.driver.find_element(By.TAG_NAME, "body")
        return int(body.get_attribute("data-worker") or 0)

    def settle(self, elsewhere: int = 0) -> int:
        """Connected, and not to that worker: loads the page anew until chance gives another."""

        def look() -> int:
            here = eventually(self.worker, "a connection")
            if here != elsewhere:
                return here
            self.driver.get(self.url)
            return 0

        return eventually(look, "another worker")

    def say(self, line: str) -> None:
        self.driver.find_element(By.ID, "line").send_keys(line)
        self.driver.find_element(By.TAG_NAME, "button").click()

    def lines(self) -> list[str]:
        return [item.text for item in self.driver.find_elements(By.TAG_NAME, "li")]

    def hears(self, line: str) -> None:
        eventually(lambda: line in self.lines(), f"{line!r} in the page")


@pytest.fixture
def windows(server: Server, tmp_path: Path) -> Iterator[list[Window]]:
    opened = []
    try:
        for name in ("ann", "bob"):
            opened.append(Window(tmp_path / name, server.port))
        yield opened
    finally:
        for window in opened:
            window.driver.quit()


def size(server: Server) -> Any:
    return json.loads(server.get("/tea/size") or '{"size": 0}')["size"]


def test_two_windows_on_two_workers_chat_while_a_worker_is_killed(
    server: Server, windows: list[Window]
) -> None:
    ann, bob = windows
    first = ann.settle()
    assert bob.settle(elsewhere=first) != first
    eventually(lambda: size(server) == 2, "two members")
    ann.say("hello, is anybody there?")
    bob.hears("hello, is anybody there?")
    bob.say("yes, on another worker")
    for window in windows:
        window.hears("yes, on another worker")
        assert window.lines() == ["hello, is anybody there?", "yes, on another worker"]
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    ann.driver.save_screenshot(str(ARTEFACTS / "chat.png"))

    os.kill(first, signal.SIGKILL)
    eventually(lambda: ann.worker() not in (0, first), "the page to connect again")
    eventually(lambda: size(server) == 2, "two members again, none of the dead worker's")
    bob.say("still here")
    for window in windows:
        window.hears("still here")
        assert window.lines().count("still here") == 1
    ann.driver.save_screenshot(str(ARTEFACTS / "chat-after-a-kill.png"))
    bob.driver.execute_script("socket.onclose = null; socket.close()")
    eventually(lambda: size(server) == 1, "one member after the other left")
