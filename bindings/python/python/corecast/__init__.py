"""Publish/subscribe between the workers of a prefork server, in shared memory.

    import corecast

    with corecast.Hub(workers=2) as hub:          # before fork; its master runs in a thread
        with hub.attach(0) as ann, hub.attach(1) as bob:
            bob.join("lobby")
            ann.send("lobby", b"hello")
            print(bob.recv(timeout=5).body)

A :class:`Core` is used by one thread, greenlet or event loop at a time: attach one for each. Two
threads that call the same core at once get :exc:`errors.InUse` (one of them), never wrong data.
"""

from __future__ import annotations

from . import errors
from ._corecast import Channel, Message, MessageView
from .core import Core
from .errors import Error
from .hub import Hub
from .process import attach, connect, current_hub, use_hub

__all__ = [
    "Channel",
    "Core",
    "Error",
    "Hub",
    "Message",
    "MessageView",
    "attach",
    "connect",
    "current_hub",
    "errors",
    "use_hub",
]
