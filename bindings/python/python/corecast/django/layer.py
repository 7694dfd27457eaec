"""The channel layer: the contract of Channels 4.3 over this process's :class:`Station`."""

from __future__ import annotations

import uuid
from typing import Any, Optional

import msgpack
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from ..hub import Hub
from .letters import Letter, Message
from .station import Forks, Station, station_of_process

# Names that are remembered at most.
NAMES = 10_000


class ChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """A channel layer without a server.

    ``expiry``, ``group_expiry``, ``capacity`` and ``channel_capacity`` are those of Channels;
    ``prefix`` keeps several sites on one hub apart; ``hub`` is by default this process's
    (:func:`corecast.current_hub`), or, where there is none (runserver, tests), one of its own,
    which only this process sees.

    Capacity counts on the part of a process-local name up to ``!``, which the process's channels
    share, until one of its readers asks; and on each channel, so a slow consumer takes no other's
    room. A group message counts once for each process. A message that finds its channel full is dropped, counted (:meth:`statistics`) and
    logged. Membership in a group ends with the process that owns the channel.
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Optional[dict[Any, int]] = None,
        prefix: str = "asgi",
        hub: Optional[Hub] = None,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.prefix = prefix
        self.hub = hub
        self._known: tuple[int, Optional[Station]] = (-1, None)
        self._client = ""
        # Names that have passed all checks in this process.
        self._received: set[str] = set()
        self._groups: set[str] = set()

    def _station(self) -> Station:
        """This process's, and after a fork the child's."""
        forks, station = self._known
        if station is None or forks != Forks.count:
            station = station_of_process(self.prefix, self.hub)
            self._client = f"{uuid.uuid4().hex[:16]}-{station.me[0]}-{station.me[1]}"
            station.locals.add(self._client)
            self._received.clear()
            self._known = (Forks.count, station)
        return station

    @property
    def client_prefix(self) -> str:
        """Marks this layer's process-local channels in this process."""
        self._station()
        return self._client

    async def new_channel(self, prefix: str = "specific") -> str:
        """A fresh name that only this process receives on."""
        return f"{prefix}.{self.client_prefix}!{uuid.uuid4().hex}"

    async def send(self, channel: str, message: Message) -> None:
        """Sends to one reader of the channel. Raises ``ChannelFull`` at capacity."""
        self.require_valid_channel_name(channel)
        station, packed = self._station(), self.serialize(message)
        if not await station.send(channel, packed, self.expiry, self.get_capacity(channel)):
            raise ChannelFull()

    async def receive(self, channel: str) -> Message:
        """The next message of the channel, oldest first. One reader gets each message."""
        station = self._station()
        if channel not in self._received:
            self._check_receiver(channel)
        if station.unsettled and station.unsettled >= self.get_capacity(channel):
            await station.settle()
        found = station.ask(channel)
        if not isinstance(found, Letter):
            found = await station.arrival(channel, found)
        return found.open(self)

    def _check_receiver(self, channel: str) -> None:
        """Once for each name: a reader asks for the same one again and again."""
        self.require_valid_channel_name(channel)
        if "!" in channel:
            local = self.non_local_name(channel)[:-1]
            assert local.endswith(self._client), "Wrong client prefix"
        if len(self._received) >= NAMES:
            self._received.clear()
        self._received.add(channel)

    async def group_add(self, group: str, channel: str) -> None:
        """Adds a channel; what is sent to the group from now on reaches it."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        capacity = self.get_capacity(channel)
        await self._station().group_add(group, channel, self.group_expiry, capacity)

    async def group_discard(self, group: str, channel: str) -> None:
        """Takes a channel out; no error if it was not in."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self._station().group_discard(group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Sends to every channel of the group; those at capacity miss it."""
        if group not in self._groups:
            self._check_group(group)
        await self._station().group_send(group, self.serialize(message), self.expiry)

    def _check_group(self, group: str) -> None:
        """Once for each name, too."""
        self.require_valid_group_name(group)
        if len(self._groups) >= NAMES:
            self._groups.clear()
        self._groups.add(group)

    async def group_size(self, group: str) -> int:
        """How many channels are in the group, in all processes."""
        self.require_valid_group_name(group)
        return await self._station().group_size(group)

    async def flush(self) -> None:
        """Forgets all messages and groups, in all processes."""
        await self._station().flush()

    def statistics(self) -> dict[str, int]:
        """This process's counters: messages dropped at capacity, expired, lost on the way."""
        return dict(self._station().counters)

    def serialize(self, message: Message) -> bytes:
        """A message as bytes."""
        return bytes(msgpack.packb(message))

    def deserialize(self, packed: bytes) -> Message:
        """The inverse of :meth:`serialize`."""
        return msgpack.unpackb(packed, strict_map_key=False)  # type: ignore[no-any-return]
