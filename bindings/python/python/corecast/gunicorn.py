"""corecast under gunicorn. Two lines at the end of the config file:

    import corecast.gunicorn
    corecast.gunicorn.install(globals())

Then :func:`corecast.attach` in a worker gives it a core. Keywords of ``install`` are settings of
the :class:`corecast.Hub`.

How it works, and why so:

- HUP runs the config file again in the arbiter. The hub lives in this module, which stays
  imported, so workers from before and after a reload share it.
- ``worker.age`` only grows. The arbiter gives each worker the lowest index that none of its live
  workers has; the slot itself is taken in shared memory when the worker attaches, which waits for
  the last owner's to be freed. The list of live workers is right also where gunicorn skips
  ``child_exit`` (exit codes 3 and 4).
- A worker's death, however it comes (kill -9, worker timeout), is seen by the hub's master through
  a pidfd, not through gunicorn's hooks.
- The master is a native thread of the arbiter. It takes no lock of Python's or of the C library's
  that a fork could copy in a locked state, other than malloc's, which the C library resets, so
  forking beside it is safe. Python 3.12 and later warn of any thread at a fork, and cannot tell;
  this one warning is switched off in the arbiter.
- After USR2 the new arbiter has a hub of its own: the two generations do not hear each other.
"""

from __future__ import annotations

import os
import warnings
import weakref
from typing import Any, Callable

from .core import Core
from .errors import NoFreeSlot
from .hub import Hub
from .process import use_hub

Hook = Callable[..., None]


class _Arbiter:
    """What this process, the arbiter, has made; its workers inherit it."""

    hub: Hub | None = None
    pid = 0


def install(config: dict[str, Any], *, cores: int | None = None, **settings: Any) -> None:
    """Adds corecast to a gunicorn config; ``config`` is its ``globals()``.

    Hooks that the config has are still called: ours come first. ``cores`` per worker is by
    default one per thread and one more; ``workers`` is by default twice the configured number and
    8, for those that a reload starts before the old ones end.
    """
    ours: dict[str, Hook] = {
        "on_starting": lambda server: _start(server, cores, settings),
        "pre_fork": _give_index,
        "post_fork": _enter_worker,
        "on_exit": _stop,
    }
    for name, hook in ours.items():
        config[name] = _chain(hook, config.get(name), name)


def hub() -> Hub | None:
    """The hub of this server, or None before it starts."""
    return _Arbiter.hub


def _chain(first: Hook, second: Hook | None, name: str) -> Hook:
    # gunicorn checks how many arguments a hook takes.
    if name in ("pre_fork", "post_fork"):

        def both_of_worker(server: Any, worker: Any) -> None:
            first(server, worker)
            if second is not None:
                second(server, worker)

        return both_of_worker

    def both(server: Any) -> None:
        first(server)
        if second is not None:
            second(server)

    return both


def _start(server: Any, cores: int | None, settings: dict[str, Any]) -> None:
    """In the arbiter, after it has become a daemon, before any worker."""
    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
    settings.setdefault("workers", 2 * server.cfg.workers + 8)
    # Room for a few messages of the largest size; memory is taken only as it is used.
    settings.setdefault("queue_bytes", 4 << 20)
    hub = Hub(cores=cores or max(server.cfg.threads, 1) + 1, **settings)
    hub.start()
    _Arbiter.hub, _Arbiter.pid = hub, os.getpid()


def _give_index(server: Any, worker: Any) -> None:
    taken = {getattr(other, "corecast_index", None) for other in server.WORKERS.values()}
    index = 0
    while index in taken:
        index += 1
    worker.corecast_index = index


def _enter_worker(server: Any, worker: Any) -> None:
    hub = _Arbiter.hub
    if hub is None:
        return
    if worker.corecast_index >= hub.workers:
        server.log.error(
            "corecast: no slot for worker %s: the hub has %s; restart, or install(..., workers=)",
            worker.corecast_index,
            hub.workers,
        )
    use_hub(hub, Cores(hub, worker.corecast_index).attach)


def _stop(server: Any) -> None:
    hub = _Arbiter.hub
    if hub is not None and _Arbiter.pid == os.getpid():
        hub.close()


class Cores:
    """The cores of one worker process: gives out those that are free."""

    def __init__(self, hub: Hub, worker: int) -> None:
        self.hub = hub
        self.worker = worker
        self.given: list[weakref.ref[Core] | None] = [None] * hub.cores

    def attach(self) -> Core:
        for index, given in enumerate(self.given):
            if given is None or not _in_use(given()):
                core = self.hub.attach(self.worker, index)
                self.given[index] = weakref.ref(core)
                return core
        raise NoFreeSlot(
            f"all {len(self.given)} cores of worker {self.worker} are attached; raise cores"
        )


def _in_use(core: Core | None) -> bool:
    return core is not None and not core.closed
