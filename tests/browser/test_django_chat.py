"""The chat of examples/, under gunicorn with uvicorn workers, driven by two browser windows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from room import PAGE, chat_while_a_worker_is_killed
from servers import Server, eventually, free_port, running

ROOT = Path(__file__).resolve().parents[2]
CHAT = ROOT / "bindings" / "python" / "examples" / "chat"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for file in CHAT.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "app:application"]
    with running(command, tmp_path, port) as server:
        eventually(lambda: server.get("/tea/size"), "an answer")
        yield server


def size(server: Server) -> Any:
    return json.loads(server.get("/tea/size") or '{"size": 0}')["size"]


def test_two_windows_on_two_workers_chat_while_a_worker_is_killed(server: Server, windows) -> None:
    ann, bob = windows(f"http://127.0.0.1:{server.port}/tea/", **PAGE)
    chat_while_a_worker_is_killed(ann, bob, lambda: size(server), "chat")
