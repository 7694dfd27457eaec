"""What can go wrong, one class each. All derive from :class:`Error`."""

from __future__ import annotations


class Error(Exception):
    """Anything that corecast refuses."""


class BadName(Error, ValueError):
    """Not a channel name: 1 to 255 bytes, none of them NUL."""


class MessageTooLarge(Error, ValueError):
    """Longer than the hub's ``max_message``."""


class LaneFull(Error):
    """The core's lane has no room: the router is behind. Try again, or give a timeout."""


class TimedOut(Error, TimeoutError):
    """The master did not answer, or there was no room, in time."""


class MasterGone(Error, ConnectionError):
    """The master of the hub has ended; nobody routes."""


class StaleChannel(Error):
    """The channel handle was closed, or the core that opened it has detached."""


class StaleMessage(Error):
    """A message from ``recv_view`` was used after the next receive."""


class WrongProcess(Error, RuntimeError):
    """The object was made in another process, before a fork. Attach again after fork."""


class Detached(Error):
    """The core (or hub) is closed, or was cut off after damage."""


class InUse(Error, RuntimeError):
    """Another thread is in a call of the same object."""


class TooManyChannels(Error):
    """All channels of the hub are in use (``channels``)."""


class TooManyPending(Error):
    """Too many asynchronous joins of this core are unanswered."""


class NotJoined(Error):
    """This core has not joined (or opened) the channel."""


class Damaged(Error):
    """The core's queue did not parse; its unread part was skipped."""


class OutOfRange(Error, IndexError):
    """The hub has no such worker or core."""


class Busy(Error):
    """A live core holds the slot."""


class NoFreeSlot(Error):
    """All slots are attached; raise ``workers``, ``cores`` or ``extra``."""


class Foreign(Error):
    """This process serves another worker."""


class BadAddress(Error, ValueError):
    """Not a socket's name: ``@name`` or a path."""


class AddressTaken(Error):
    """Somebody else's socket has the name."""


class HubNotFound(Error, ConnectionError):
    """No hub listens there, or no socket is named (``CORECAST_SOCKET``)."""


class NotAllowed(Error, PermissionError):
    """The hub is another user's."""


class VersionMismatch(Error):
    """The region was made by another version of corecast."""


class ConfigError(Error, ValueError):
    """A setting that cannot be; the text names it and its limit."""


class NotEnoughMemory(Error, MemoryError):
    """The hub does not fit into memory or address space."""


class NotEnoughDescriptors(Error):
    """The limit of open files is too low for the hub (``ulimit -n``)."""


class MasterRunning(Error):
    """The hub has a master already."""


class SystemCallFailed(Error):
    """The kernel refused something; the text says what."""
