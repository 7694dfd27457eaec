"""The lines that the README here and the one at the top show are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from servers import eventually, free_port, running

HERE = Path(__file__).parent.parent / "README.md"
TOP = Path(__file__).parents[3] / "README.md"
both = pytest.mark.parametrize("readme", [HERE, TOP], ids=["here", "top"])


def blocks(readme: Path) -> dict[str, str]:
    """A README's Python, by the name behind ```python; "" for the last without."""
    return dict(re.findall(r"```python ?(\S*)\n(.*?)```", readme.read_text(), re.DOTALL))


def test_the_first_example(capsys) -> None:
    exec(compile(blocks(HERE)[""], "README.md", "exec"), {})
    assert capsys.readouterr().out == "b'hello'\n"


@both
def test_the_lines_for_gunicorn(readme: Path, tmp_path: Path) -> None:
    for name in ("gunicorn.conf.py", "app.py"):
        (tmp_path / name).write_text(blocks(readme)[name])
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


@both
def test_the_lines_for_django(readme: Path, tmp_path: Path) -> None:
    shown = blocks(readme)
    (tmp_path / "gunicorn.conf.py").write_text(shown["gunicorn.conf.py"])
    (tmp_path / "app.py").write_text(SETTINGS_APP.format(settings=shown["settings.py"].strip()))
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "2", "app:app"]
    with running(command, tmp_path, port) as server:
        eventually(lambda: server.get("/") == "corecast.django.layer", "an answer")
        eventually(lambda: server.get("/") == "corecast.django.layer", "an answer in another loop")
