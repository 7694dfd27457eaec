"""A core, with what iteration and event loops add to it."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Union

from . import _corecast
from ._corecast import Message

ChannelName = Union[str, bytes]

# A flood of messages must not keep an event loop from its other work.
_BURST = 128


def closes(
    self: Any,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """The end of a ``with`` block for a hub or a core."""
    self.close()


class Core(_corecast.Core):
    """One unit of concurrency of a worker, attached to a hub.

    - polling: ``recv()`` returns a :class:`Message`, or None
    - threads: ``recv(timeout=5)``, or ``for message in core`` which waits for each
    - asyncio: ``async for message in core``, ``await core.arecv()``, ``await core.ajoin(name)``
    - gevent: :mod:`corecast.gevent`
    - any other loop: register ``fileno()``; when readable, read 8 bytes from it, then call
      ``recv()`` until it returns None
    """

    _waiting: _Readable | None = None

    def __enter__(self) -> Core:
        return self

    __exit__ = closes

    def __iter__(self) -> Iterator[Message]:
        """Messages as they come; waits for each. For threads."""
        while True:
            message = self.recv(timeout=None)
            if message is not None:
                yield message

    def pending(self) -> Iterator[Message]:
        """The messages that are there now; does not wait."""
        while (message := self.recv()) is not None:
            yield message

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Messages as they come. For asyncio."""
        burst = 0
        while True:
            message = self.recv()
            if message is None:
                await self.readable()
                burst = 0
                continue
            yield message
            burst += 1
            if burst >= _BURST:
                burst = 0
                await asyncio.sleep(0)

    async def arecv(self) -> Message:
        """The next message."""
        while True:
            message = self.recv()
            if message is not None:
                return message
            await self.readable()

    async def ajoin(self, channel: ChannelName) -> None:
        """``join`` without stopping the loop: when it returns, what is sent will come."""
        ticket = self.join_async(channel)
        while not self.join_result(ticket):
            await self.readable()

    async def readable(self) -> None:
        """Waits until something may have come, after ``recv`` has returned None."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting
        if waiting is None or waiting.loop is not loop:
            if waiting is not None:
                waiting.end()
            waiting = self._waiting = _Readable(loop, self)
        await waiting.wait()

    def close(self) -> None:
        """Detaches: subscriptions end, what was sent is still delivered."""
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None
        super().close()


class _Readable:
    """A core's descriptor in an event loop. It is watched from the first wait to the core's end:
    registering costs a system call, being notified in vain is rare."""

    def __init__(self, loop: asyncio.AbstractEventLoop, core: Core) -> None:
        self.loop = loop
        self.fd = core.fileno()
        self.waiters: set[asyncio.Future[None]] = set()
        self.news = False
        loop.add_reader(self.fd, _notified, weakref.ref(self), loop, self.fd)

    async def wait(self) -> None:
        if self.news:  # it was notified before anybody waited
            self.news = False
            return
        waiter = self.loop.create_future()
        self.waiters.add(waiter)
        try:
            await waiter
        finally:
            self.waiters.discard(waiter)

    def notify(self) -> None:
        self.news = not self.waiters
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def end(self) -> None:
        if not self.loop.is_closed():
            with suppress(RuntimeError):  # another thread's loop may refuse
                self.loop.remove_reader(self.fd)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.cancel()


def _notified(this: Any, loop: asyncio.AbstractEventLoop, fd: int) -> None:
    with suppress(BlockingIOError):
        os.read(fd, 8)
    readable = this()
    if readable is None:  # the core went away without being closed
        loop.remove_reader(fd)
    else:
        readable.notify()
