"""Debian's uWSGI with the plugin where it was built."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import Server, eventually, free_port


@contextmanager
def serving(ini: str, folder: Path, path: str) -> Iterator[Server]:
    """Runs it with an ini file as a README or an example has it, but for the port; once it answers."""
    plugin = os.environ.get("CORECAST_UWSGI_PLUGIN")
    assert plugin, "CORECAST_UWSGI_PLUGIN is the plugin to load: make check-browser sets it"
    port = free_port()
    ini = ini.replace("python3,corecast", f"python3,{plugin}").replace(":8080", f":{port}")
    (folder / "chat.ini").write_text(ini)
    server = Server(["/usr/bin/uwsgi", "chat.ini"], folder, port)
    try:
        eventually(lambda: server.get(path), "the page")
        yield server
    except BaseException:
        print(server.log.read_text(errors="replace")[-8000:])
        raise
    finally:
        server.signal(signal.SIGINT)  # SIGTERM means reload to uWSGI
        server.stop()
