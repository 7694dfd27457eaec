"""Windows that are closed whatever happens; the servers are those of the Python package's tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bindings" / "python" / "tests"))

from window import Window  # noqa: E402


@pytest.fixture
def windows(tmp_path: Path) -> Iterator[Callable[..., list[Window]]]:
    """Opens two windows, each a visitor of its own."""
    opened: list[Window] = []

    def two(*args: object, **kwargs: object) -> list[Window]:
        for name in ("ann", "bob"):
            opened.append(Window(tmp_path / name, *args, **kwargs))
        return opened

    yield two
    for window in opened:
        window.driver.quit()
