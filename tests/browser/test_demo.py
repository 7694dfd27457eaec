"""`make demo`: two windows on two worker processes, one of which is killed by its button."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from servers import Server, eventually, free_port
from window import Window, elsewhere

CORECAST = os.environ.get("CORECAST")
PAGE = {
    "said": "#lines li:not(.pending, .notice) bdi:last-child",
    "line": "#text",
    "size": (1180, 760),
}


@pytest.fixture
def server(tmp_path: Path):
    assert CORECAST, "CORECAST is the binary to run: make check-browser sets it"
    port = free_port()
    server = Server([CORECAST, "demo", "--workers", "4", "--port", str(port)], tmp_path, port)
    try:
        eventually(lambda: server.get("/"), "the page")
        yield server
    finally:
        server.stop()


def press(window: Window, button: str) -> None:
    window.driver.find_element(By.ID, button).click()


def seat(window: Window) -> str:
    """The worker and the process that serve the window; "" while nobody does."""
    can_be_moved = window.driver.find_element(By.ID, "move").is_enabled()
    return " ".join(window.texts("#seat *")) if can_be_moved else ""


def call(window: Window, name: str) -> None:
    field = window.driver.find_element(By.ID, "name")
    field.clear()
    field.send_keys(name, "\n")


def people(window: Window) -> list[str]:
    return sorted(window.texts("#people .name"))


def test_two_windows_on_two_workers_chat_while_a_worker_is_killed(server: Server, windows) -> None:
    ann, bob = windows(f"http://127.0.0.1:{server.port}/", **PAGE)
    here = eventually(lambda: seat(ann), "a connection")
    there = elsewhere(bob, lambda: seat(bob), here, lambda: press(bob, "move"))
    call(ann, "Ann")
    call(bob, "Bob")
    both = [["Ann", "Bob"]] * 2
    eventually(lambda: [people(ann), people(bob)] == both, "both in the room")
    ann.say("hello from one worker")
    bob.hears("hello from one worker")
    bob.say("hello from another")
    ann.hears("hello from another")
    ann.photograph("demo")

    press(ann, "kill")
    eventually(lambda: seat(ann) not in ("", here), "the page to go on elsewhere, or anew")
    eventually(lambda: [people(ann), people(bob)] == both, "both in the room again")
    assert seat(bob) == there, "nobody else has noticed"
    bob.say("still here")
    ann.say("and so am I")
    for window in (ann, bob):
        for line in ("still here", "and so am I", "hello from one worker", "hello from another"):
            window.hears(line)
    ann.photograph("demo-after-a-kill")
