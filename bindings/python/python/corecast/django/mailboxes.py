"""The messages that wait in this process, by channel, oldest first."""

from __future__ import annotations

from collections import Counter, deque
from typing import Callable, Optional

from .letters import Letter


def shared_part(channel: str) -> str:
    """The part of a process-local name up to and with ``!``; "" for any other."""
    part, mark, _ = channel.partition("!")
    return part + mark if mark else ""


class Mailboxes:
    """Bounded by capacity and by each message's deadline. Not locked.

    Capacity counts twice for process-local channels: on the part up to ``!``, which they share,
    for what has come since a reader of that part last asked; and, as for any other channel, for
    what lies unread in each. So a process that reads nothing fills up as a whole, and one slow
    reader among others fills only its own channel.
    """

    def __init__(self, counters: Counter[str], is_asked_for: Callable[[str], bool]) -> None:
        self.counters = counters
        # True if somebody waits for a channel with that part.
        self.is_asked_for = is_asked_for
        self.boxes: dict[str, deque[Letter]] = {}
        # Messages of our own that are still on their way through the hub, by channel and part.
        self.reserved: Counter[str] = Counter()
        # By part: what has come since a reader asked.
        self.untaken: Counter[str] = Counter()

    def names(self) -> list[str]:
        """Channels with messages."""
        return list(self.boxes)

    def clear(self) -> None:
        """Forgets all that has arrived."""
        self.boxes.clear()
        self.untaken.clear()

    def asked(self, channel: str) -> None:
        """A reader has asked: its process takes up all that has come for the shared part."""
        if self.untaken:
            self.untaken.pop(shared_part(channel), None)

    def admit(self, part: str, capacity: int) -> bool:
        """Counts a message on a shared part, once for all its channels; False: that is full."""
        if not part:
            return True
        if not self._is_open(part, capacity):
            return False
        self.untaken[part] += 1
        return True

    def _is_open(self, part: str, capacity: int) -> bool:
        if self.untaken[part] + self.reserved[part] < capacity:
            return True
        if not self.is_asked_for(part):
            return False
        self.untaken.pop(part, None)
        return True

    def reserve(self, channel: str, capacity: int, now: float) -> bool:
        """Room for one more message that is about to be sent."""
        part = shared_part(channel)
        if part and not self._is_open(part, capacity):
            return False
        if not self._has_room(channel, capacity, now):
            return False
        self.reserved[channel] += 1
        if part:
            self.reserved[part] += 1
        return True

    def unreserve(self, channel: str) -> None:
        """It has arrived, or was not sent."""
        for key in filter(None, (channel, shared_part(channel))):
            self.reserved[key] -= 1
            if self.reserved[key] <= 0:
                del self.reserved[key]

    def put(self, channel: str, letter: Letter, capacity: int, now: float) -> bool:
        """False: the channel is full, the message is dropped."""
        box = self.boxes.get(channel)
        if box is not None and not self.reserved and len(box) < capacity:
            box.append(letter)
            return True
        if not self._has_room(channel, capacity, now):
            self.counters["dropped"] += 1
            return False
        self.boxes.setdefault(channel, deque()).append(letter)
        return True

    def put_back(self, channel: str, letter: Letter) -> None:
        """What :meth:`take` gave, or would have given, was not read after all."""
        self.boxes.setdefault(channel, deque()).appendleft(letter)

    def take(self, channel: str, now: float) -> Optional[Letter]:
        """The oldest message that has not expired."""
        box = self.boxes.get(channel)
        while box:
            letter = box.popleft()
            if not box:  # names are many and short-lived: none may stay behind
                del self.boxes[channel]
            if letter.deadline > now:
                return letter
            self.counters["expired"] += 1
        return None

    def _has_room(self, channel: str, capacity: int, now: float) -> bool:
        box = self.boxes.get(channel)
        used = self.reserved.get(channel, 0)
        if box is None or len(box) + used < capacity:
            return used < capacity
        while box and box[0].deadline <= now:
            box.popleft()
            self.counters["expired"] += 1
        if not box:
            del self.boxes[channel]
        return len(box) + used < capacity
