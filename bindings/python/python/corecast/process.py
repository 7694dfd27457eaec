"""The hub that this process belongs to.

:mod:`corecast.gunicorn` sets it once per worker; a process that ``corecast run`` has started, or one
of its children, connects to it when it is asked for. Libraries such as the Channels layer take
their cores from it.
"""

from __future__ import annotations

import os
import threading
from typing import Callable

from .core import Core
from .errors import Error
from .hub import Hub

SOCKET = "CORECAST_SOCKET"

Attach = Callable[[], Core]


class _Process:
    """What is known in this process; a forked child starts with what its parent knew."""

    hub: Hub | None = None
    attach: Attach | None = None
    # The process that has connected to the hub, and to which; a child has to do so itself.
    guest = 0
    socket = ""
    lock = threading.Lock()


def _after_fork() -> None:
    _Process.lock = threading.Lock()
    if _Process.guest:
        _Process.hub, _Process.guest = None, 0


os.register_at_fork(after_in_child=_after_fork)


def use_hub(hub: Hub, attach: Attach | None = None) -> None:
    """Makes ``hub`` this process's. ``attach`` says how to get a core of it."""
    _Process.hub, _Process.attach, _Process.guest = hub, attach, 0


def connect(name: str | None = None, timeout: float = 5.0) -> Hub:
    """Connects to the hub that listens at a socket, by default the one that ``CORECAST_SOCKET``
    names, and makes it this process's. Called again in the same process, gives the same hub."""
    name = name or os.environ.get(SOCKET, _Process.socket)
    with _Process.lock:
        hub = _Process.hub
        if hub is None or not _Process.guest or _Process.socket != name:
            hub = Hub.connect(name, timeout)
            use_hub(hub)
            _Process.guest, _Process.socket = os.getpid(), name
        return hub


def current_hub() -> Hub | None:
    """The hub of this process, or None."""
    if _Process.hub is None and (os.environ.get(SOCKET) or _Process.socket):
        return connect()
    return _Process.hub


def attach() -> Core:
    """A new core of this process's hub."""
    hub = current_hub()
    if hub is None:
        raise Error(
            f"process {os.getpid()} has no hub: start the server with `corecast run`, run it under "
            "corecast.gunicorn, or call corecast.use_hub(hub)"
        )
    return _Process.attach() if _Process.attach else hub.attach()
