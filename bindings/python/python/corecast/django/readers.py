"""Who waits for which channel, in which event loop."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Callable, Optional

from .letters import Letter

# None: something may have come, look again.
Waiter = asyncio.Future[Optional[Letter]]
Loop = asyncio.AbstractEventLoop


class Readers:
    """A loop watches the core's descriptor from its first wait on. Not locked; loops may be in
    several threads.

    A reader of the running loop is handed its message; should it be cancelled before it runs, it
    gives the message back. One of another thread's loop is only woken, to look for itself: whether
    that loop will ever run again is not known here.
    """

    def __init__(self, fd: int, pump: Callable[[], None]) -> None:
        self.fd = fd
        self.pump = pump
        self.loops: weakref.WeakSet[Loop] = weakref.WeakSet()
        self.last: Callable[[], Optional[Loop]] = lambda: None  # the loop of the last wait
        # None is empty, and whoever has been handed something or woken is in it no more.
        self.waiters: dict[str, deque[Waiter]] = {}
        # Shared parts whose readers have been handed something and have not run yet.
        self.served: set[str] = set()

    def watch(self, loop: Loop) -> None:
        """From now on the loop takes what comes."""
        if loop is not self.last():
            if loop not in self.loops:
                loop.add_reader(self.fd, self._readable)
                self.loops.add(loop)
            self.last = weakref.ref(loop)

    def wait(self, loop: Loop, channel: str) -> Waiter:
        """A future of the next message, or of a reason to look again."""
        self.watch(loop)
        waiter: Waiter = loop.create_future()
        queue = self.waiters.get(channel)
        if queue is None:
            self.waiters[channel] = deque((waiter,))
        else:
            queue.append(waiter)
        return waiter

    def forget(self, channel: str, waiter: Waiter) -> None:
        """It waits no more."""
        queue = self.waiters.get(channel)
        if queue is not None:
            with suppress(ValueError):
                queue.remove(waiter)
            if not queue:
                del self.waiters[channel]

    def is_waited_for(self, channel: str) -> bool:
        return channel in self.waiters

    def is_any_waited_for(self, part: str) -> bool:
        """Whether somebody waits for a channel whose name begins like this, or is about to."""
        return part in self.served or any(channel.startswith(part) for channel in self.waiters)

    def hand(self, channels: Iterable[str], letter: Letter) -> list[str]:
        """Hands a message to a reader of each; the channels for which none waits in this loop."""
        loop, waiters, left = asyncio._get_running_loop(), self.waiters, []
        for channel in channels:
            queue = waiters.get(channel)
            while queue:
                waiter = queue[0]
                if waiter.get_loop() is not loop and not waiter.done():
                    left.append(channel)
                    break
                if len(queue) == 1:
                    del waiters[channel]
                queue.popleft()
                if not waiter.done():
                    waiter.set_result(letter)
                    break
            else:
                left.append(channel)
        return left

    def all_served(self) -> None:
        """All that is there has been handed out: once those who got it have run, it is over."""
        loop = asyncio._get_running_loop()
        if self.served and loop is not None:
            loop.call_soon(self.served.clear)

    def wake(self, channel: str) -> None:
        """Wakes the first who waits for it."""
        queue = self.waiters.get(channel)
        while queue:
            waiter = queue.popleft()
            if not queue:
                del self.waiters[channel]
            if not waiter.done() and _wake(waiter):
                return

    def wake_all(self) -> None:
        """Wakes everybody, to look again."""
        queues, self.waiters = self.waiters, {}
        for queue in queues.values():
            for waiter in queue:
                _wake(waiter)

    def _readable(self) -> None:
        with suppress(BlockingIOError):  # another thread's loop was quicker
            os.read(self.fd, 8)
        self.pump()


def _wake(waiter: Waiter) -> bool:
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
