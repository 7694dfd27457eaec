"""The hub that this process belongs to.

A server integration (:mod:`corecast.gunicorn`, ``corecast run``) sets it once per worker; libraries
such as the Channels layer take their cores from it.
"""

from __future__ import annotations

import os
from typing import Callable

from .core import Core
from .errors import Error
from .hub import Hub

Attach = Callable[[], Core]


class _Process:
    """What is known in this process; a forked child starts with what its parent knew."""

    hub: Hub | None = None
    attach: Attach | None = None


def use_hub(hub: Hub, attach: Attach | None = None) -> None:
    """Makes ``hub`` this process's. ``attach`` says how to get a core of it."""
    _Process.hub = hub
    _Process.attach = attach


def current_hub() -> Hub | None:
    """The hub of this process, or None."""
    return _Process.hub


def attach() -> Core:
    """A new core of this process's hub."""
    hub = current_hub()
    if hub is None:
        raise Error(
            f"process {os.getpid()} has no hub: run it under corecast.gunicorn, or call "
            "corecast.use_hub(hub)"
        )
    return _Process.attach() if _Process.attach else hub.attach()
