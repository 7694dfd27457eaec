"""What all tests share: a hub, and children that report what went wrong in them."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Callable

import pytest

import corecast

LIMIT = 60  # seconds for a child; pyproject.toml has the same for a test


@pytest.fixture
def hub() -> Iterator[corecast.Hub]:
    with corecast.Hub(workers=4, cores=2) as hub:
        yield hub


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[], None]], int]]:
    """``fork(body)`` runs ``body`` in a child and returns its pid; each must end well."""
    children: list[int] = []

    def start(body: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            run_child(body)
        children.append(pid)
        return pid

    yield start
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * len(codes), "see what the children printed"


def run_child(body: Callable[[], None]) -> None:
    signal.alarm(LIMIT)  # its default action ends the child
    try:
        body()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
