"""The names that test_core.py imports."""

from typing import Any

from channels.exceptions import ChannelFull

from corecast.django import ChannelLayer

__all__ = ["ChannelFull", "RedisChannelLayer"]


class RedisChannelLayer(ChannelLayer):
    """Takes, and ignores, what only a server needs."""

    def __init__(self, hosts: Any = None, **settings: Any) -> None:
        super().__init__(**settings)

    async def close_pools(self) -> None:
        """There are none."""
