"""A group's channels in this process."""

from __future__ import annotations

from .mailboxes import shared_part


class Group:
    """Channels, each with the end of its membership, its capacity and its shared part. Not locked."""

    __slots__ = ("channels", "ends", "parts")

    def __init__(self) -> None:
        self.channels: dict[str, tuple[float, int, str]] = {}
        # No membership ends before; and the shared parts of all names there have been.
        self.ends = float("inf")
        self.parts: set[str] = set()

    def add(self, channel: str, ends: float, capacity: int) -> None:
        """Adds a channel, or prolongs its membership."""
        part = shared_part(channel)
        self.channels[channel] = (ends, capacity, part)
        self.ends = min(self.ends, ends)
        self.parts.add(part)

    def ended(self, now: float) -> list[str]:
        """The channels whose membership is over."""
        if self.ends > now:
            return []
        over = [channel for channel, (ends, _, _) in self.channels.items() if ends <= now]
        going_on = (ends for ends, _, _ in self.channels.values() if ends > now)
        self.ends = min(going_on, default=float("inf"))
        return over

    def size(self, now: float) -> int:
        """How many are in it."""
        return sum(ends > now for ends, _, _ in self.channels.values())

    def parts_without(self, left: list[str]) -> set[str]:
        """The shared parts of all its channels but those."""
        if len(left) == len(self.channels):
            return set()
        if len(self.parts) == 1:  # nearly always
            return self.parts
        return {self.channels[channel][2] for channel in self.channels.keys() - left}
