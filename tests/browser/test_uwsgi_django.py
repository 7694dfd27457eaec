"""The Django chat of bindings/uwsgi/examples, over uWSGI's own WebSockets, in two windows."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import django
import pytest
from selenium.webdriver.common.by import By
from servers import Server, eventually, free_port
from window import Window, elsewhere

ROOT = Path(__file__).resolve().parents[2]
CHAT = ROOT / "bindings" / "uwsgi" / "examples" / "django"
PAGE = {"said": "#lines li", "line": "#line"}


@pytest.fixture
def server(tmp_path: Path):
    plugin = os.environ.get("CORECAST_UWSGI_PLUGIN")
    assert plugin, "CORECAST_UWSGI_PLUGIN is the plugin to load: make check-browser sets it"
    port = free_port()
    # The plugin where it was built, a free port, and the Django of this environment.
    ini = (CHAT / "chat.ini").read_text()
    ini = ini.replace("python3,corecast", f"python3,{plugin}").replace(":8080", f":{port}")
    ini = ini.replace("= chat.py", f"= {CHAT / 'chat.py'}")
    (tmp_path / "chat.ini").write_text(
        f"{ini}pythonpath = {Path(django.__file__).parents[1]}\n",
    )
    server = Server(["/usr/bin/uwsgi", "chat.ini"], tmp_path, port)
    try:
        eventually(lambda: server.get("/tea/"), "the page")
        yield server
    except BaseException:
        print(server.log.read_text(errors="replace")[-8000:])
        raise
    finally:
        server.signal(signal.SIGINT)  # SIGTERM means reload to uWSGI
        server.stop()


def worker(window: Window) -> int:
    """The worker that the window is connected to; 0 for none."""
    body = window.driver.find_element(By.TAG_NAME, "body")
    return int(body.get_attribute("data-worker") or 0)


def members(server: Server) -> int:
    return json.loads(server.get("/members") or '{"members": -1}')["members"]


def test_two_windows_on_two_workers_chat_while_a_worker_is_killed(server: Server, windows) -> None:
    ann, bob = windows(f"http://127.0.0.1:{server.port}/tea/", **PAGE)
    first = eventually(lambda: worker(ann), "a connection")
    elsewhere(bob, lambda: worker(bob), first, bob.driver.refresh)
    eventually(lambda: members(server) == 2, "two members")
    ann.say("hello, is anybody there?")
    bob.hears("hello, is anybody there?")
    bob.say("yes, on another worker")
    for window in (ann, bob):
        window.hears("yes, on another worker")
        assert window.lines() == ["hello, is anybody there?", "yes, on another worker"]
    ann.photograph("uwsgi-django-chat")

    os.kill(first, signal.SIGKILL)
    eventually(lambda: worker(ann) not in (0, first), "the page to connect again")
    eventually(lambda: members(server) == 2, "two members again, none of the dead worker's")
    bob.say("still here")
    for window in (ann, bob):
        window.hears("still here")
    ann.photograph("uwsgi-django-chat-after-a-kill")
    bob.driver.execute_script("socket.onclose = null; socket.close()")
    eventually(lambda: members(server) == 1, "one member after the other left")
