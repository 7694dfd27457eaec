"""Django Channels over corecast: ``"BACKEND": "corecast.django.ChannelLayer"``."""

from __future__ import annotations

from .layer import ChannelLayer

__all__ = ["ChannelLayer"]
