"""The page of the Django chats (bindings/python/examples/chat/room.html) in two windows, whatever serves it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from selenium.webdriver.common.by import By
from servers import eventually
from window import Window, elsewhere

PAGE = {"said": "#lines li", "line": "#line"}


def worker(window: Window) -> int:
    """The worker that the window is connected to; 0 for none."""
    body = window.driver.find_element(By.TAG_NAME, "body")
    return int(body.get_attribute("data-worker") or 0)


def chat_while_a_worker_is_killed(
    ann: Window, bob: Window, members: Callable[[], int], name: str
) -> None:
    """Two visitors on two workers; `members` says how many are in the room, in all workers."""
    first = eventually(lambda: worker(ann), "a connection")
    elsewhere(bob, lambda: worker(bob), first, bob.driver.refresh)
    eventually(lambda: members() == 2, "two members")
    ann.say("hello, is anybody there?")
    bob.hears("hello, is anybody there?")
    bob.say("yes, on another worker")
    for window in (ann, bob):
        window.hears("yes, on another worker")
        assert window.lines() == ["hello, is anybody there?", "yes, on another worker"]
    ann.photograph(name)

    os.kill(first, signal.SIGKILL)
    eventually(lambda: worker(ann) not in (0, first), "the page to connect again")
    eventually(lambda: members() == 2, "two members again, none of the dead worker's")
    bob.say("still here")
    for window in (ann, bob):
        window.hears("still here")
    ann.photograph(f"{name}-after-a-kill")
    bob.driver.execute_script("socket.onclose = null; socket.close()")
    eventually(lambda: members() == 1, "one member after the other left")
