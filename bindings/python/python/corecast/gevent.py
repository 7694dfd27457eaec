"""Receiving under gevent: only the calling greenlet waits.

for message in corecast.gevent.messages(core):
    ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import gevent
from gevent.hub import get_hub

from ._corecast import Message
from .core import Core

# After so many messages in a row the other greenlets get a turn.
_BURST = 128


def recv(core: Core, timeout: float | None = None) -> Message | None:
    """The next message, or None if none comes within ``timeout`` seconds (None: no limit)."""
    message = core.recv()
    if message is not None:
        return message
    with gevent.Timeout.start_new(timeout) as limit:
        try:
            return _wait(core)
        except gevent.Timeout as over:
            if over is not limit:
                raise
            return core.recv()


def _wait(core: Core) -> Message:
    hub, fd = get_hub(), core.fileno()
    watcher = hub.loop.io(fd, 1)
    try:
        while True:
            hub.wait(watcher)
            with suppress(BlockingIOError):
                os.read(fd, 8)
            message = core.recv()
            if message is not None:
                return message
    finally:
        watcher.close()


def messages(core: Core) -> Iterator[Message]:
    """Messages as they come."""
    burst = 0
    while True:
        message = core.recv()
        if message is None:
            message, burst = _wait(core), 0
        yield message
        burst += 1
        if burst >= _BURST:
            burst = 0
            gevent.sleep(0)
