"""gunicorn with the two lines of the README in its config file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from servers import Server, eventually, free_port, running

pytest.importorskip("gunicorn")

CONFIG = """
workers = 3
timeout = 3
graceful_timeout = 3
bind = "127.0.0.1:{port}"

def post_fork(server, worker):
    worker.log.info("the config's own hook ran for slot %s", worker.corecast_index)

import corecast.gunicorn
corecast.gunicorn.install(globals())
"""

APP = """
import json, os, threading, time
import corecast

core = corecast.attach()
core.join("all")
heard = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/say":
        core.send("all", str(os.getpid()).encode())
    if path == "/hang":
        time.sleep(60)
    if path == "/exit":
        os._exit(7)
    heard.extend(message.body.decode() for message in core.pending())
    hub = corecast.current_hub()
    body = json.dumps(dict(pid=os.getpid(), worker=core.worker, heard=heard,
        subscribers=hub.subscribers("all"), stats=hub.stats())).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def server(tmp_path: Path):
    port = free_port()
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG.format(port=port))
    with running(["gunicorn", "app:app"], tmp_path, port) as server:
        eventually(lambda: len(workers(server)) == 3, "three workers")
        yield server


def state(server: Server) -> dict:
    return json.loads(eventually(lambda: server.get("/"), "an answer"))


def children(server: Server) -> set[int]:
    text = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return {int(pid) for pid in text.split()}


def workers(server: Server) -> set[int]:
    """Live workers, once as many have joined."""
    now = server.get("/")
    alive = children(server)
    if now is None or now.count("[") < 1:
        return set()
    return alive if len(json.loads(now)["subscribers"]) == len(alive) else set()


def heard_by_all(server: Server) -> None:
    """Everybody hears what one says: all are on one hub."""
    said = json.loads(eventually(lambda: server.get("/say"), "an answer"))["pid"]
    deaf = children(server)

    def ask() -> bool:
        answer = server.get("/")
        if answer:
            who = json.loads(answer)
            if str(said) in who["heard"]:
                deaf.discard(who["pid"])
        return not deaf

    eventually(ask, f"all workers to hear {said}")


def replaced(server: Server, old: set[int], gone: int) -> bool:
    """Three workers, and at least so many of the old ones gone."""
    now = workers(server)
    return len(now) == 3 and len(old - now) >= gone


def test_workers_hear_each_other_and_a_killed_one_is_replaced(server: Server) -> None:
    heard_by_all(server)
    victim = min(children(server))
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: replaced(server, {victim}, 1), "a new worker in the slot")
    eventually(lambda: state(server)["stats"]["reaped"] == 1, "the old one to be reaped")
    assert sorted(state(server)["subscribers"]) == [[0, 0], [1, 0], [2, 0]]
    heard_by_all(server)
    assert "the config's own hook ran for slot 2" in server.log.read_text()


def test_a_reload_keeps_the_hub_and_its_slots(server: Server) -> None:
    for _ in range(2):
        old, before = children(server), state(server)["stats"]["joins"]
        server.signal(signal.SIGHUP)
        eventually(lambda old=old: replaced(server, old, 3), "new workers")
        after = state(server)
        assert after["stats"]["joins"] == before + 3, "the same hub, three more joins"
        assert after["stats"]["cores"] == 3
        heard_by_all(server)


def test_hanging_and_exiting_workers_leave_nothing_behind(server: Server) -> None:
    old = children(server)
    assert server.get("/hang") is None, "killed by gunicorn's timeout"
    assert server.get("/exit") is None
    eventually(lambda: replaced(server, old, 2), "new workers")
    assert state(server)["stats"]["cores"] == 3
    heard_by_all(server)


@pytest.mark.parametrize("code", [3, 4])
def test_boot_failures_end_the_server_and_the_hub_with_it(tmp_path: Path, code: int) -> None:
    """Exit codes for which gunicorn skips child_exit and halts."""
    port = free_port()
    (tmp_path / "app.py").write_text(f"import corecast, os; corecast.attach(); os._exit({code})")
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG.format(port=port))
    with running(["gunicorn", "--workers", "1", "app:app"], tmp_path, port) as server:
        assert server.process.wait(30) == code
        assert "Traceback" not in server.log.read_text()
