"""Who waits for which channel, in which event loop."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Callable, Optional

Waiter = asyncio.Future[None]
Loop = asyncio.AbstractEventLoop


class Readers:
    """A loop watches the core's descriptor from its first wait on. Not locked; loops may be in
    several threads. Waiters are woken, not handed anything: a cancelled one loses no message."""

    def __init__(self, fd: int, pump: Callable[[], None]) -> None:
        self.fd = fd
        self.pump = pump
        self.loops: weakref.WeakSet[Loop] = weakref.WeakSet()
        self.last: Callable[[], Optional[Loop]] = lambda: None  # the loop of the last wait
        self.waiters: dict[str, deque[Waiter]] = {}

    def wait(self, loop: Loop, channel: str) -> Waiter:
        """A future that :meth:`wake` ends."""
        if loop is not self.last():
            if loop not in self.loops:
                loop.add_reader(self.fd, self._readable)
                self.loops.add(loop)
            self.last = weakref.ref(loop)
        waiter: Waiter = loop.create_future()
        self.waiters.setdefault(channel, deque()).append(waiter)
        return waiter

    def done(self, channel: str, waiter: Waiter) -> None:
        """The wait is over. If it was woken and did not take it up, the next one is woken."""
        waiters = self.waiters.get(channel)
        if waiters is None:
            return
        if len(waiters) == 1 and waiters[0] is waiter:  # nearly always
            del self.waiters[channel]
            return
        with suppress(ValueError):
            waiters.remove(waiter)
        if not waiters:
            del self.waiters[channel]
        elif waiter.done():
            self.wake(channel)

    def forget(self, channel: str) -> None:
        """Nobody waits for this any more."""
        self.waiters.pop(channel, None)

    def is_waited_for(self, channel: str) -> bool:
        return channel in self.waiters

    def is_any_waited_for(self, part: str) -> bool:
        """Whether somebody waits for a channel whose name begins like this."""
        return any(channel.startswith(part) for channel in self.waiters)

    def wake(self, channel: str) -> None:
        """Wakes the first who waits for it."""
        for waiter in self.waiters.get(channel, ()):
            if not waiter.done() and _end(waiter):
                return

    def wake_all(self) -> None:
        """Wakes everybody, to look again."""
        for waiters in list(self.waiters.values()):
            _end_all(waiters)

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.fd, 8)
        self.pump()


def _end_all(waiters: Iterable[Waiter]) -> None:
    for waiter in list(waiters):
        _end(waiter)


def _end(waiter: Waiter) -> bool:
    """False if the waiter's loop has ended."""
    loop = waiter.get_loop()
    if loop is asyncio._get_running_loop():
        _settle(waiter)
        return True
    try:
        loop.call_soon_threadsafe(_settle, waiter)
    except RuntimeError:
        return False
    return True


def _settle(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
