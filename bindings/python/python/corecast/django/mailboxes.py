"""The messages that wait in this process, by channel, oldest first."""

from __future__ import annotations

from collections import Counter, deque
from typing import Optional

Entry = tuple[bytes, float]


class Mailboxes:
    """Bounded by capacity per channel and by each message's deadline. Not locked."""

    def __init__(self, counters: Counter[str]) -> None:
        self.counters = counters
        self.boxes: dict[str, deque[Entry]] = {}
        # Messages of our own that are still on their way through the hub.
        self.reserved: Counter[str] = Counter()

    def names(self) -> list[str]:
        """Channels with messages."""
        return list(self.boxes)

    def clear(self) -> None:
        """Forgets all that has arrived."""
        self.boxes.clear()

    def reserve(self, channel: str, capacity: int, now: float) -> bool:
        """Room for one more message that is about to be sent."""
        if not self._has_room(channel, capacity, now):
            return False
        self.reserved[channel] += 1
        return True

    def unreserve(self, channel: str) -> None:
        """It has arrived, or was not sent."""
        self.reserved[channel] -= 1
        if self.reserved[channel] <= 0:
            del self.reserved[channel]

    def put(self, channel: str, packed: bytes, deadline: float, capacity: int, now: float) -> bool:
        """False: the channel is full, the message is dropped."""
        if not self._has_room(channel, capacity, now):
            self.counters["dropped"] += 1
            return False
        self.boxes.setdefault(channel, deque()).append((packed, deadline))
        return True

    def take(self, channel: str, now: float) -> Optional[bytes]:
        """The oldest message that has not expired."""
        entry = self.take_entry(channel, now)
        return entry[0] if entry else None

    def take_entry(self, channel: str, now: float) -> Optional[Entry]:
        """The same, with its deadline."""
        box = self.boxes.get(channel)
        while box:
            entry = box.popleft()
            if not box:  # names are many and short-lived: none may stay behind
                del self.boxes[channel]
            if entry[1] > now:
                return entry
            self.counters["expired"] += 1
        return None

    def _has_room(self, channel: str, capacity: int, now: float) -> bool:
        box = self.boxes.get(channel)
        used = self.reserved.get(channel, 0)
        if box is None or len(box) + used < capacity:
            return used < capacity
        while box and box[0][1] <= now:
            box.popleft()
            self.counters["expired"] += 1
        if not box:
            del self.boxes[channel]
        return len(box) + used < capacity
