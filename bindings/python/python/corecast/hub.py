"""The hub: the shared region and all that lives in it."""

from __future__ import annotations

from typing import Literal, Union

from . import _corecast
from .core import Core, closes

Overflow = Literal["drop_newest", "drop_oldest", "block"]
Timestamps = Literal["off", "batch", "message"]
Order = Literal["total", "per_sender"]


class Hub(_corecast.Hub):
    """A hub. Make it before you fork; the children inherit it.

    Settings are keywords, all optional: ``workers`` (4), ``cores`` per worker (1), ``extra``
    slots for helpers (4), ``channels`` in use at a time (65,536), ``lane_bytes`` and
    ``queue_bytes`` per core (256 KiB), ``arena_bytes`` for what several cores read in one place
    (8 MiB), ``slab_bytes`` per core for large messages, which are received from where they were
    written (2 MiB), ``max_message`` in bytes (1 MiB), ``overflow`` ("drop_newest", "drop_oldest",
    "block"), ``timestamps`` ("off", "batch", "message"), ``order`` ("total", "per_sender"),
    ``populate`` (False), ``spin`` and ``answer_timeout`` in seconds, ``assist`` (False): workers
    that send while the master sleeps do its work, and can write all of the hub's memory;
    ``huge_pages`` (False), where the kernel gives them.

    Used as a context manager, it runs its master in a thread and ends it.
    """

    @classmethod
    def connect(cls, name: str | None = None, timeout: float = 5.0) -> Hub:
        """The hub that listens (:meth:`listen`) at a socket, by default the one that
        ``CORECAST_SOCKET`` names. This process is a worker of it until it ends, or until the
        hub and all of its cores are closed. A child that it forks connects for itself.
        """
        return cls(_socket=name or "", _timeout=timeout)

    def attach(self, worker: int | None = None, core: int = 0) -> Core:
        """A core of this hub: number ``core`` of a worker, or any free one."""
        return Core(self, worker, core)

    def __enter__(self) -> Hub:
        self.start()
        return self

    __exit__ = closes


ChannelName = Union[str, bytes]
