"""Processes that come by socket, in the interpreter; under servers: ``test_spawning_servers.py``."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

import corecast
from corecast import errors

Fork = Callable[[Callable[[], None]], int]

# What a process does that has nothing of this one but the environment.
GUEST = """
import asyncio, corecast, sys
hub = corecast.connect()
assert hub is corecast.connect() is corecast.current_hub()
core = corecast.attach()
assert (core.worker, core.core) == hub.seat, (core.worker, core.core, hub.seat)

async def main():
    await core.ajoin("to guests")
    core.send("to host", b"here")
    print((await core.arecv()).body.decode(), hub.subscribers("to guests"))

asyncio.run(main())
"""


@pytest.fixture
def socket(hub: corecast.Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that listens for workers from the second on, named in the environment."""
    hub.start()
    name = hub.listen(first_worker=1)
    monkeypatch.setenv("CORECAST_SOCKET", name)
    yield name


@pytest.fixture
def hub() -> Iterator[corecast.Hub]:
    hub = corecast.Hub(workers=3, cores=2, extra=0)
    yield hub
    hub.close()


def test_a_process_of_its_own_finds_the_hub_in_the_environment(
    hub: corecast.Hub, socket: str
) -> None:
    assert hub.seat is None
    with hub.attach(0) as core:
        core.join("to host")
        command = [sys.executable, "-c", GUEST]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as guest:
            message = core.recv(timeout=30)
            assert message is not None and (message.body, message.sender) == (b"here", (1, 0))
            core.send("to guests", b"welcome")
            assert guest.stdout is not None
            assert guest.stdout.read() == "welcome [(1, 0)]\n"
    assert guest.returncode == 0


def test_a_forked_child_of_a_guest_connects_for_itself(socket: str, fork: Fork) -> None:
    def guest() -> None:
        first = corecast.attach()
        first.join("family")
        second = corecast.attach()
        with pytest.raises(errors.NoFreeSlot, match="all 2 slots"):
            corecast.attach()
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(errors.WrongProcess):
                    second.send("family", b"")
                own = corecast.attach()
                assert own.worker != first.worker
                own.send("family", b"from the child")
                own.close()
                os._exit(0)
            finally:
                os._exit(1)
        message = first.recv(timeout=30)
        assert message is not None and message.body == b"from the child"
        assert os.waitpid(child, 0)[1] == 0

    fork(guest)


def test_what_is_wrong_is_said(
    hub: corecast.Hub, monkeypatch: pytest.MonkeyPatch, fork: Fork
) -> None:
    monkeypatch.delenv("CORECAST_SOCKET", raising=False)
    with pytest.raises(errors.HubNotFound, match=r"CORECAST_SOCKET.*corecast run"):
        corecast.connect()
    with pytest.raises(errors.HubNotFound, match="no hub listens"):
        corecast.connect("@nobody-listens-here")
    with pytest.raises(errors.BadAddress, match="begins with @"):
        corecast.connect("plain")
    with pytest.raises(errors.BadAddress, match="begins with @"):
        hub.listen("plain")
    with pytest.raises(errors.ConfigError, match="first_worker is 3"):
        hub.listen(first_worker=3)
    name = hub.listen(f"@corecast-python-{os.getpid()}")
    with pytest.raises(errors.TimedOut, match="did not answer"):
        corecast.connect(name, timeout=0.05)
    with corecast.Hub(workers=1) as other, pytest.raises(errors.AddressTaken):
        other.listen(name)
    assert corecast.current_hub() is None, "none of that has left anything behind"


def test_a_polled_hub_serves_its_socket(hub: corecast.Hub, fork: Fork) -> None:
    name = hub.listen()
    done = False

    def ended(*_: object) -> None:
        nonlocal done
        done = True

    before = signal.signal(signal.SIGCHLD, ended)
    try:
        fork(lambda: corecast.connect(name).attach().join("here"))
        while not done:
            hub.poll(0.05)
    finally:
        signal.signal(signal.SIGCHLD, before)
    while hub.stats()["cores"]:
        hub.poll(0.05)
    assert hub.stats()["joins"] == 1


def test_two_loops_of_one_guest_have_a_core_each(socket: str, fork: Fork) -> None:
    async def talk(say: str, hear: str) -> None:
        with corecast.attach() as core:
            await core.ajoin(hear)
            while (message := core.recv()) is None:
                core.send(say, b"hello")
                await asyncio.sleep(0.001)
            assert message.body == b"hello"
            for _ in range(3):  # for who has not joined yet
                core.send(say, b"hello")

    def guest() -> None:
        async def both() -> None:
            await asyncio.gather(talk("a", "b"), talk("b", "a"))

        asyncio.run(both())

    fork(guest)


def test_the_lines_that_the_uwsgi_readme_shows_for_other_processes(hub: corecast.Hub) -> None:
    readme = Path(__file__).parents[2] / "uwsgi" / "README.md"
    blocks = re.findall(r"```python guest.py\n(.*?)```", readme.read_text(), re.DOTALL)
    assert len(blocks) == 1 and "@news-site" in blocks[0]
    hub.start()
    name = hub.listen(first_worker=1)
    with hub.attach(0) as core:
        core.join("news")
        command = [sys.executable, "-c", blocks[0].replace("@news-site", name)]
        subprocess.run(command, check=True, timeout=60)
        message = core.recv(timeout=30)
        assert message is not None and (message.body, message.sender) == (b"from outside", (1, 0))


@pytest.mark.parametrize("code", [0, 5])
def test_the_launcher_of_the_package_gives_the_exit_code(code: int) -> None:
    command = [sys.executable, "-m", "corecast", "run", "--workers", "2", "--"]
    child = f"import corecast, sys; corecast.attach(); sys.exit({code})"
    done = subprocess.run([*command, sys.executable, "-c", child], timeout=60)
    assert done.returncode == code


def test_the_console_script_is_the_same_program() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "corecast")
    done = subprocess.run([script, "run", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "CORECAST_SOCKET" in done.stdout
    done = subprocess.run([script, "run", "no-such-thing"], capture_output=True, text=True)
    assert done.returncode == 127 and "no-such-thing" in done.stderr


def test_ctrl_c_at_a_terminal_reaches_the_command_once() -> None:
    """The terminal sends it to the command too: what the launcher added would be a second one,
    which servers take for impatience."""
    script = "trap 'echo INT' INT; trap 'echo TERM; exit 9' TERM; echo ready $PPID; "
    script += "while kill -0 $PPID 2>/dev/null; do sleep 0.02; done"
    pid, terminal = pty.fork()
    if pid == 0:
        # Whoever runs the tests in the background ignores it, and a shell cannot trap that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-m", "corecast", "run", "sh", "-c", script])
    said = b""

    def until(what: bytes) -> None:
        nonlocal said
        while what not in said:
            said += os.read(terminal, 1000)

    until(b"ready")
    os.write(terminal, b"\x03")
    until(b"INT")
    os.kill(pid, signal.SIGTERM)
    until(b"TERM")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.close(terminal)
    assert said.count(b"INT") == 1, said
