"""Servers that spawn or exec their workers, under ``corecast run``: their workers hear each other;
one that is killed loses what it had; the server's replacement comes in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers import PATIENCE, Server, eventually, free_port, running

for module in ("granian", "hypercorn", "uvicorn"):
    pytest.importorskip(module)

APP = """
import asyncio, json, os
import corecast

heard = []
core = None

async def listen():
    async for message in core:
        heard.append(message.body.decode())

async def app(scope, receive, send):
    global core
    if scope["type"] == "lifespan":
        await receive()
        core = corecast.attach()
        await core.ajoin("all")
        task = asyncio.create_task(listen())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        core.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/say":
        core.send("all", str(os.getpid()).encode())
    hub = corecast.current_hub()
    body = json.dumps(dict(pid=os.getpid(), heard=heard,
        subscribers=hub.subscribers("all"), stats=hub.stats())).encode()
    headers = [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

LAYER_APP = """
import asyncio, json, os
from django.conf import settings
settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "corecast.django.ChannelLayer"}})
from channels.layers import get_channel_layer

heard = []

async def listen(layer, channel):
    while True:
        heard.append((await layer.receive(channel))["text"])

async def app(scope, receive, send):
    layer = get_channel_layer()
    if scope["type"] == "lifespan":
        await receive()
        channel = await layer.new_channel()
        await layer.group_add("all", channel)
        task = asyncio.create_task(listen(layer, channel))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/say":
        await layer.group_send("all", {"type": "x", "text": str(os.getpid())})
    size = await layer.group_size("all") if scope["path"] == "/size" else 0
    body = json.dumps(dict(pid=os.getpid(), heard=heard, size=size)).encode()
    headers = [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

SERVERS = {
    "uvicorn": ["uvicorn", "app:app", "--workers", "2", "--log-level", "warning", "--port"],
    "hypercorn": ["hypercorn", "app:app", "--workers", "2", "--bind"],
    "granian": [
        *["granian", "app:app", "--interface", "asgi", "--workers", "2"],
        *["--respawn-failed-workers", "--port"],
    ],
}


@contextmanager
def launched(name: str, folder: Path, app: str = APP) -> Iterator[Server]:
    """The server with two workers under the launcher."""
    (folder / "app.py").write_text(app)
    port = free_port()
    *command, last = SERVERS[name]
    where = f"127.0.0.1:{port}" if last == "--bind" else str(port)
    command = ["corecast", "run", "--", sys.executable, "-m", *command, last, where]
    with running(command, folder, port) as server:
        yield server


def ask(server: Server, path: str = "/") -> dict:
    return json.loads(eventually(lambda: server.get(path), "an answer"))


def pids(server: Server) -> set[int]:
    """The workers that answer; asked until both have."""
    found: set[int] = set()

    def both() -> bool:
        found.add(ask(server)["pid"])
        return len(found) == 2

    eventually(both, "two workers that answer")
    return found


def all_hear(server: Server, workers: set[int]) -> None:
    said = str(ask(server, "/say")["pid"])
    deaf = set(workers)

    def look() -> bool:
        state = ask(server)
        if said in state["heard"]:
            deaf.discard(state["pid"])
        return not deaf

    eventually(look, f"{workers} to hear {said}")


@pytest.mark.parametrize("name", ["uvicorn", "granian"])
def test_workers_hear_each_other_and_a_killed_one_is_replaced(name: str, tmp_path: Path) -> None:
    with launched(name, tmp_path) as server:
        before = pids(server)
        assert sorted(ask(server)["subscribers"]) == [[0, 0], [1, 0]]
        all_hear(server, before)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: ask(server)["stats"]["reaped"] == 1, "its slot to be reaped")
        eventually(lambda: ask(server)["stats"]["joins"] == 3, "the replacement to join")
        after = pids(server)
        assert victim not in after
        assert sorted(ask(server)["subscribers"]) == [[0, 0], [1, 0]]
        all_hear(server, after)
        server.signal(signal.SIGTERM)
        server.process.wait(PATIENCE)


def test_hypercorn_replaces_its_workers_in_a_reload_and_ends_when_one_is_killed(
    tmp_path: Path,
) -> None:
    """It takes a death by signal as a reason to end."""
    with launched("hypercorn", tmp_path) as server:
        before = pids(server)
        all_hear(server, before)
        server.signal(signal.SIGHUP)
        eventually(lambda: not pids(server) & before, "two other workers")
        after = pids(server)
        all_hear(server, after)
        state = ask(server)
        assert sorted(state["subscribers"]) == [[0, 0], [1, 0]]
        assert (state["stats"]["joins"], state["stats"]["cores"]) == (4, 2)
        os.kill(min(after), signal.SIGKILL)
        server.process.wait(PATIENCE)


def test_the_channel_layer_finds_the_hub_in_all_workers(tmp_path: Path) -> None:
    with launched("uvicorn", tmp_path, LAYER_APP) as server:
        workers = pids(server)
        assert ask(server, "/size")["size"] == 2
        all_hear(server, workers)
        os.kill(min(workers), signal.SIGKILL)
        eventually(lambda: len(pids(server) - workers) == 1, "a replacement")
        eventually(lambda: ask(server, "/size")["size"] == 2, "two members again")


README = Path(__file__).parents[3] / "README.md"


def shown(section: str) -> dict[str, str]:
    """The code blocks of a section of the README at the top, by language."""
    text = re.search(rf"^## {section}\n(.*?)^## ", README.read_text(), re.M | re.S)
    assert text is not None
    return dict(re.findall(r"```(\w+)\n(.*?)```", text[1], re.S))


def test_the_lines_of_the_top_readme_for_uvicorn_do_what_they_say(tmp_path: Path) -> None:
    """As they stand; but for the port, and pip: the package is installed here already."""
    blocks = shown("In uvicorn")
    (tmp_path / "app.py").write_text(blocks["python"])
    install, start, *clients = blocks["sh"].splitlines()
    assert install.startswith("pip install ./bindings/python uvicorn")
    assert start == "corecast run -- uvicorn app:app --workers 4 &"
    port = free_port()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "UVICORN_PORT": str(port)}
    log = (tmp_path / "log").open("w+")
    shell = subprocess.Popen(
        ["sh", "-c", f"exec {start.removesuffix('&')}"],
        cwd=tmp_path,
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        script = "\n".join(line.split("#")[0] for line in clients)
        assert script.count("localhost:8000") == 3
        # Who comes before a worker is up asks again, and one who waits gets what is said later.
        script = script.replace("localhost:8000", f"localhost:{port}")
        script = script.replace("curl", "curl -s --retry 100 --retry-connrefused --retry-delay 1")
        waiting, say = script.strip().splitlines()
        ears = subprocess.Popen(["sh", "-c", f"{waiting}\nwait"], stdout=subprocess.PIPE, text=True)

        def heard() -> bool:
            said = subprocess.run(["sh", "-c", say], capture_output=True, text=True)
            assert said.stdout == "sent\n"
            return ears.poll() is not None

        eventually(heard, "both to hear it")
        assert ears.communicate()[0] == "hellohello"
    except BaseException:
        log.seek(0)
        print(log.read()[-8000:])
        raise
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        log.close()
