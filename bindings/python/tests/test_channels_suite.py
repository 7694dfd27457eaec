"""channels_redis 4.3's own tests, unchanged, against corecast's layer.

Its source distribution is fetched once, into the environment's folder. Left out is what asks for
Redis itself: keys, connections, sentinels, and attributes of that implementation.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

VERSION = "4.3.0"
HERE = Path(__file__).parent
STORE = Path(sys.prefix).parent / "channels_redis"
LEFT_OUT = {
    "test_default_group_key_format": "keys in Redis",
    "test_custom_group_key_format": "keys in Redis",
    "test_receive_buffer_respects_capacity": "an attribute of that implementation",
    "test_loop_instance_channel_layer_reference": "an attribute of that implementation",
    "test_multi_event_loop_garbage_collection": "an attribute of that implementation",
    "test_auto_reconnect": "connections to Redis",
}


def suite() -> Path:
    """The folder with its tests."""
    folder = STORE / f"channels_redis-{VERSION}" / "tests"
    if not folder.exists():
        STORE.mkdir(parents=True, exist_ok=True)
        fetch = ["download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        wanted = [f"channels-redis=={VERSION}", "--dest", str(STORE)]
        subprocess.run([sys.executable, "-m", "pip", *fetch, *wanted], check=True, timeout=120)
        with tarfile.open(next(STORE.glob("*.tar.gz"))) as archive:
            archive.extractall(STORE, filter="data")
    return folder


@pytest.fixture(scope="module")
def output() -> str:
    """What running it prints."""
    keep = " and ".join(f"not {name}" for name in LEFT_OUT)
    files = [str(suite() / name) for name in ("test_core.py", "test_pubsub.py")]
    options = [
        "-v",
        "-k",
        keep,
        "-o",
        "asyncio_mode=auto",
        "--rootdir",
        str(STORE),
        "-c",
        os.devnull,
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env={**os.environ, "PYTHONPATH": str(HERE / "redis_shim")},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    return ran.stdout + ran.stderr


def test_all_that_apply_pass(output: str) -> None:
    assert not re.findall(r"\b(FAILED|ERROR)\b", output), output[-6000:]
    passed = int(re.search(r"(\d+) passed", output)[1])
    assert passed >= 36, output[-3000:]
