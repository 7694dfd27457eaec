"""The lines that the README shows are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from servers import eventually, free_port, running

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks() -> dict[str, str]:
    """The README's Python, by the name behind ```python; "" for the first."""
    return dict(re.findall(r"```python ?(\S*)\n(.*?)```", README, re.DOTALL))


def test_the_first_example(capsys) -> None:
    exec(compile(blocks()[""], "README.md", "exec"), {})
    assert capsys.readouterr().out == "b'hello'\n"


def test_the_lines_for_gunicorn(tmp_path: Path) -> None:
    for name in ("gunicorn.conf.py", "app.py"):
        (tmp_path / name).write_text(blocks()[name])
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "2", "app:app"]
    with running(command, tmp_path, port) as server:
        eventually(lambda: server.get("/") == "a request", "an answer")


SETTINGS_APP = """
import asyncio
from django.conf import settings
settings.configure({settings})
from channels.layers import get_channel_layer

async def hello():
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("all", channel)
    await layer.group_send("all", {{"type": "x", "text": type(layer).__module__}})
    return (await layer.receive(channel))["text"]

def app(environ, start_response):
    start_response("200 OK", [])
    return [asyncio.run(hello()).encode()]
"""


def test_the_lines_for_django(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(blocks()["gunicorn.conf.py"])
    (tmp_path / "app.py").write_text(SETTINGS_APP.format(settings=blocks()["settings.py"].strip()))
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "2", "app:app"]
    with running(command, tmp_path, port) as server:
        eventually(lambda: server.get("/") == "corecast.django.layer", "an answer")
        eventually(lambda: server.get("/") == "corecast.django.layer", "an answer in another loop")
