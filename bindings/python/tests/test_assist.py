"""Assist mode: workers that do the sleeping master's work."""

from __future__ import annotations

from collections.abc import Callable

import corecast

Fork = Callable[[Callable[[], None]], int]
ROUNDS = 200


def test_workers_that_answer_each_other_leave_the_master_asleep(fork: Fork) -> None:
    with corecast.Hub(workers=2, assist=True, huge_pages=True) as hub:

        def answer() -> None:
            with corecast.Core(hub, 1) as core:
                core.join("there")
                core.send("back", b"ready")
                for n in range(ROUNDS):
                    message = core.recv(timeout=30)
                    assert message is not None and message.body == str(n).encode()
                    core.send("back", message.body)

        with corecast.Core(hub, 0) as core:
            core.join("back")
            fork(answer)
            ready = core.recv(timeout=30)
            assert ready is not None and ready.body == b"ready"
            for n in range(ROUNDS):
                core.send("there", str(n).encode())
                message = core.recv(timeout=30)
                assert message is not None and message.body == str(n).encode()
        # The parent runs the master as well, and is woken by other things now and then.
        assert hub.stats()["assisted"] > ROUNDS
