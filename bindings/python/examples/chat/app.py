"""A chat with rooms, as in the tutorial of Django Channels, in one file and without Redis."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY=os.environ.get("SECRET_KEY", "only for trying it out"),
    ROOT_URLCONF=__name__,
    CHANNEL_LAYERS={"default": {"BACKEND": "corecast.django.ChannelLayer"}},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

PAGE = (Path(__file__).parent / "room.html").read_text()


class ChatConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One visitor's WebSocket."""

    group = ""

    async def connect(self) -> None:
        self.group = "chat_" + self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send(json.dumps({"worker": os.getpid()}))

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str = "", bytes_data: bytes = b"") -> None:
        line = json.loads(text_data)["line"]
        await self.channel_layer.group_send(self.group, {"type": "chat.line", "line": line})

    async def chat_line(self, event: dict[str, Any]) -> None:
        await self.send(json.dumps({"line": event["line"]}))


def room(request: HttpRequest, room: str) -> HttpResponse:
    return HttpResponse(PAGE)


async def size(request: HttpRequest, room: str) -> JsonResponse:
    """How many are in the room, in all workers."""
    here = await get_channel_layer().group_size("chat_" + room)
    return JsonResponse({"size": here})


urlpatterns = [path("<slug:room>/", room), path("<slug:room>/size", size)]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws/<slug:room>/", ChatConsumer.as_asgi())]),
    }
)
