"""A message of Channels on its way to readers in this process."""

from __future__ import annotations

from typing import Any, Optional, Protocol

Message = dict[str, Any]

# A message of these alone can be shared but for its dict.
_CONSTANTS = frozenset((str, int, float, bool, bytes, type(None)))


class Opener(Protocol):
    """What unpacks messages: a layer."""

    def deserialize(self, packed: bytes) -> Message: ...


class Letter:
    """Packed as it came, with the time at which it expires. Each reader gets a message of its own.

    One that goes to several readers is unpacked once if nothing in it can be changed: they get
    copies of the dict. Unpacking takes several times as long, and is done for each if need be.
    """

    __slots__ = ("deadline", "is_shared", "opened", "opener", "packed")

    def __init__(self, packed: bytes, deadline: float, is_shared: bool = False) -> None:
        self.packed = packed
        self.deadline = deadline
        # Whether it is worth looking for a way to unpack it once.
        self.is_shared = is_shared
        self.opened: Message = {}
        # Who has unpacked it; set last, because readers may be in several threads.
        self.opener: Optional[Opener] = None

    def open(self, opener: Opener) -> Message:
        """A message that nobody else holds."""
        if self.opener is opener:
            return self.opened.copy()
        message = opener.deserialize(self.packed)
        if self.is_shared:
            self.is_shared = False
            if type(message) is dict and _CONSTANTS.issuperset(map(type, message.values())):
                self.opened = message.copy()
                self.opener = opener
        return message
