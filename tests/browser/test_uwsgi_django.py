"""The Django chat of bindings/uwsgi/examples, over uWSGI's own WebSockets, in two windows."""

from __future__ import annotations

import json
from pathlib import Path

import django
from room import PAGE, chat_while_a_worker_is_killed
from uwsgi import serving

ROOT = Path(__file__).resolve().parents[2]
CHAT = ROOT / "bindings" / "uwsgi" / "examples" / "django"


def test_two_windows_on_two_workers_chat_while_a_worker_is_killed(tmp_path: Path, windows) -> None:
    # The Django of this environment.
    ini = (CHAT / "chat.ini").read_text().replace("= chat.py", f"= {CHAT / 'chat.py'}")
    ini += f"pythonpath = {Path(django.__file__).parents[1]}\n"
    with serving(ini, tmp_path, "/tea/") as server:
        ann, bob = windows(f"http://127.0.0.1:{server.port}/tea/", **PAGE)

        def members() -> int:
            return json.loads(server.get("/members") or '{"members": -1}')["members"]

        chat_while_a_worker_is_killed(ann, bob, members, "uwsgi-django-chat")
