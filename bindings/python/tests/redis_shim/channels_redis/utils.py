"""Imported by a test that does not apply."""

from typing import Any


async def _close_redis(connection: Any) -> None:
    raise NotImplementedError("there is no connection")
