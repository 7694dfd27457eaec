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
    rooms_are_apart(ann, bob, members)
    leave(bob)
    eventually(lambda: members() == 1, "one member after the other left")


def leave(window: Window) -> None:
    window.driver.execute_script("socket.onclose = null; socket.close()")


def rooms_are_apart(ann: Window, bob: Window, members: Callable[[], int]) -> None:
    """Bob goes to another room, in the same window, and comes back."""
    coffee = bob.url.replace("/tea/", "/coffee/")
    assert coffee != bob.url
    bob.driver.get(coffee)
    eventually(lambda: worker(bob), "a connection in the other room")
    for turn in ("first", "second"):
        # A room's lines come in the order in which the hub got them: had one gone to the wrong
        # window, it would be there before the next one.
        for window, room in ((ann, "tea"), (bob, "coffee")):
            window.say(f"{turn} line on {room}")
            window.hears(f"{turn} line on {room}")
    assert bob.lines() == ["first line on coffee", "second line on coffee"], bob.lines()
    assert not [line for line in ann.lines() if "coffee" in line], ann.lines()
    leave(bob)
    eventually(lambda: members() == 1, "one member; the page that was left has no connection")
    bob.driver.back()
    eventually(lambda: members() == 2, "two members after the way back")
    ann.say("welcome back")
    bob.hears("welcome back")
    assert not [line for line in bob.lines() if "coffee" in line], bob.lines()
