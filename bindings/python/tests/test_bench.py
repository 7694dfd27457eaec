"""The benches work: a moment of each, without Redis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"


def test_the_layers_are_measured() -> None:
    command = [sys.executable, BENCH / "layers.py", "--quick", "--only", "corecast"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("corecast ") >= 4, done.stdout
