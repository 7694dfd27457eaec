"""The chat with rooms of the Django Channels tutorial, in Django under uWSGI's own WebSockets.

Each visitor has a thread (or greenlet) of a worker while the page is open. Neither Channels nor an
ASGI server is needed, and no Redis.
"""

import json
import os
from pathlib import Path

import django
import uwsgi
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY=os.environ.get("SECRET_KEY", "only for trying it out"),
    ROOT_URLCONF=__name__,
)
django.setup()

from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import Resolver404, path, resolve

PAGE = Path(__file__).parents[3] / "python" / "examples" / "chat" / "room.html"


class ChatConsumer:
    """One visitor's WebSocket."""

    def __init__(self, room):
        self.group = "chat_" + room

    def connect(self):
        uwsgi.channel_join(self.group)
        uwsgi.websocket_handshake()
        uwsgi.websocket_send(json.dumps({"worker": os.getpid()}))

    def receive(self, said):
        line = str(json.loads(said)["line"])
        uwsgi.channel_send(self.group, json.dumps({"line": line}), timeout=5)

    def serve(self):
        """Goes on until the visitor has gone (OSError); uWSGI ends the subscription then."""
        self.connect()
        while True:
            uwsgi.channel_wait(uwsgi.connection_fd(), 5)
            while said := uwsgi.websocket_recv_nb():
                self.receive(said)
            while news := uwsgi.channel_recv():
                uwsgi.websocket_send(news)


def room(request, room):
    return HttpResponse(PAGE.read_text())


def members(request):
    """How many are in all rooms, in all workers."""
    return JsonResponse({"members": uwsgi.channel_stats()["subscriptions"]})


class SocketRoutes:
    """The addresses of WebSockets, which Django itself does not serve."""

    urlpatterns = [path("ws/<slug:room>/", ChatConsumer)]


urlpatterns = [path("members", members), path("<slug:room>/", room)]
pages = get_wsgi_application()


def application(environ, start_response):
    if environ.get("HTTP_UPGRADE", "").lower() != "websocket":
        return pages(environ, start_response)
    try:
        found = resolve(environ["PATH_INFO"], SocketRoutes)
        found.func(**found.kwargs).serve()
    except (OSError, ValueError, LookupError, TypeError, Resolver404):
        pass  # the visitor has gone, or talks nonsense
    return []
