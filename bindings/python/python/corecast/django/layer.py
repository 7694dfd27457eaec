"""The channel layer: the contract of Channels 4.3 over this process's :class:`Station`."""

from __future__ import annotations

import os
import uuid
from typing import Any, Optional

import msgpack
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from ..hub import Hub
from .station import Station, station_of_process

Message = dict[str, Any]
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
        self._client: tuple[int, str] = (0, "")
        # Names that have passed all checks of `receive` in this process.
        self._received: set[str] = set()

    @property
    def client_prefix(self) -> str:
        """Marks this layer's process-local channels in this process."""
        pid, name = self._client
        if pid != os.getpid():  # first use, or first use after a fork
            station = self._station()
            name = f"{uuid.uuid4().hex[:16]}-{station.me[0]}-{station.me[1]}"
            station.locals.add(name)
            self._client = (os.getpid(), name)
            self._received.clear()
        return name

    def _station(self) -> Station:
        return station_of_process(self.prefix, self.hub)

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
        prefix = self.client_prefix
        if channel not in self._received:
            self._check_receiver(channel, prefix)
        return self.deserialize(await self._station().receive(channel))

    def _check_receiver(self, channel: str, prefix: str) -> None:
        """Once for each name: a reader asks for the same one again and again."""
        self.require_valid_channel_name(channel)
        if "!" in channel:
            local = self.non_local_name(channel)[:-1]
            assert local.endswith(prefix), "Wrong client prefix"
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
        self.require_valid_group_name(group)
        await self._station().group_send(group, self.serialize(message), self.expiry)

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
