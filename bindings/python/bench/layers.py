"""corecast's channel layer beside both of channels_redis, on the same work, in the same run.

One process sends to a group, and it and a second one receive: half of the group's channels are in
each. Every channel checks that it gets each message once and in order. A window keeps the sender at
most WINDOW messages ahead of the slowest channel, so that no layer drops any; it is in shared memory
and costs nothing. Rounds of the layers take turns; ratios are those of the medians.

Redis runs beside it, on a Unix socket, without persistence.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import corecast

WINDOW = 50  # messages ahead of the slowest channel; all layers have room for more
CAPACITY = 1000
GROUP = "bench"
TEXT = "x" * 100
WATCHDOG = 120  # seconds for a round
PACED = 100  # group_send a second
READY, SENT, BEHIND, AHEAD, WORDS = 0, 1, 2, 3, 4  # what is in the shared memory


class Board:
    """Numbers that the processes of a round share."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 8 * WORDS)).cast("q")

    def __getitem__(self, word: int) -> int:
        return int(self.words[word])

    def add(self, word: int, n: int = 1) -> None:
        """Each word has one process that writes it."""
        self.words[word] += n


# --------------------------------------------------------------------- layers

Make = Callable[[], Any]


def through_corecast(assist: bool) -> Make:
    hub = corecast.Hub(workers=2, cores=2, queue_bytes=4 << 20, assist=assist)
    hub.start()

    def make() -> Any:
        from corecast.django import ChannelLayer

        return ChannelLayer(hub=hub, capacity=CAPACITY)

    return make


def through_redis(kind: str, socket: str) -> Make:
    def make() -> Any:
        from channels_redis.core import RedisChannelLayer
        from channels_redis.pubsub import RedisPubSubChannelLayer

        classes = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
        return classes[kind](hosts=[f"unix://{socket}"], capacity=CAPACITY)

    return make


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis of our own; its socket."""
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
    with (folder / "redis.log").open("w") as log:
        server = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit(
                    "redis-server does not start:\n" + (folder / "redis.log").read_text()
                )
            time.sleep(0.05)
        yield str(socket)
    finally:
        server.terminate()
        server.wait()


# ---------------------------------------------------------------------- round


class Ears:
    """The channels of one process."""

    def __init__(self, layer: Any, board: Board, word: int) -> None:
        self.layer, self.board, self.word = layer, board, word
        self.delays: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, channels: int) -> None:
        for _ in range(channels):
            channel = await self.layer.new_channel()
            await self.layer.group_add(GROUP, channel)
            self.tasks.append(asyncio.create_task(self.listen(channel)))
        await asyncio.sleep(0.05)  # they ask for their first message

    async def listen(self, channel: str) -> None:
        due = 0
        while True:
            message = await self.layer.receive(channel)
            now = time.monotonic_ns()
            if message["n"] != due or message["text"] != TEXT:
                raise AssertionError(f"message {message['n']} where {due} was due")
            due += 1
            self.delays.append(now - message["at"])
            self.board.add(self.word)
            if message["last"]:
                return

    async def heard_all(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self.tasks), WATCHDOG)


async def receiver(layer: Any, board: Board, channels: int) -> list[int]:
    ears = Ears(layer, board, AHEAD)
    await ears.open(channels)
    board.add(READY)
    await ears.heard_all()
    return ears.delays


def is_far_ahead(board: Board, channels: tuple[int, int]) -> bool:
    """Compared in deliveries, so without a division in the loop."""
    behind = (board[SENT] - WINDOW) * channels[0] > board[BEHIND]
    return behind or (board[SENT] - WINDOW) * channels[1] > board[AHEAD]


async def ticks(seconds: float, paced: bool) -> AsyncIterator[bool]:
    """True for each message to send, False for the last one."""
    start = time.monotonic()
    sent = 0
    while time.monotonic() - start < seconds:
        yield True
        sent += 1
        if paced:
            await asyncio.sleep(max(0, start + sent / PACED - time.monotonic()))
    yield False


async def sender(
    layer: Any, board: Board, channels: tuple[int, int], seconds: float, paced: bool
) -> float:
    """Sends for so long; how long it took until everybody had heard everything."""
    ears = Ears(layer, board, BEHIND)
    await ears.open(channels[0])
    while not board[READY]:
        await asyncio.sleep(0.01)
    start = time.monotonic()
    async for goes_on in ticks(seconds, paced):
        while is_far_ahead(board, channels):
            await asyncio.sleep(0)
        message = {"type": "bench.line", "n": board[SENT], "text": TEXT, "last": not goes_on}
        await layer.group_send(GROUP, {**message, "at": time.monotonic_ns()})
        board.add(SENT)
    await ears.heard_all()
    while board[AHEAD] < board[SENT] * channels[1]:
        await asyncio.sleep(0)
    return time.monotonic() - start


async def with_layer(make: Make, act: Callable[[Any], Awaitable[Any]]) -> Any:
    layer = make()
    found = await act(layer)
    if hasattr(layer, "close_pools"):
        await layer.close_pools()
    return found


def child(body: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
    """Runs it in a forked process; the result waits for it and gives what it returned."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "w") as out:
                json.dump(asyncio.run(body()), out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)

    def wait() -> Any:
        with os.fdopen(read) as found:
            text = found.read()
        if os.waitpid(pid, 0)[1] != 0:
            raise SystemExit("a round failed, see above")
        return json.loads(text)

    return wait


def round_of(make: Make, channels: int, seconds: float, paced: bool) -> tuple[float, float]:
    """Messages a second, and the median microseconds from send to receive in the other process."""
    board = Board()
    here = channels // 2
    split = (here, channels - here)
    hears = child(lambda: with_layer(make, lambda layer: receiver(layer, board, split[1])))
    says = child(
        lambda: with_layer(make, lambda layer: sender(layer, board, split, seconds, paced))
    )
    took, delays = says(), hears()
    return board[SENT] / took, statistics.median(delays) / 1000


# ----------------------------------------------------------------------- main

CASES = [(1, False), (10, False), (100, False), (10, True)]
GOALS = {"channels_redis core": 10, "channels_redis pubsub": 3}


def name_of(channels: int, paced: bool) -> str:
    if paced:
        return f"{PACED} a second to {channels} channels, p50 from send to receive, us"
    return f"group_send a second to {channels} channel{'s' * (channels > 1)}"


def spread(values: list[float]) -> str:
    return " / ".join(
        f"{value:,.0f}" for value in (min(values), statistics.median(values), max(values))
    )


def report(channels: int, paced: bool, found: dict[str, list[float]]) -> None:
    print(f"\n{name_of(channels, paced)}\n{'':24}{'min / median / max':>30}   corecast is")
    own = statistics.median(found["corecast"])
    for name, values in found.items():
        ratio = statistics.median(values) / own if paced else own / statistics.median(values)
        goal = 2 if paced else GOALS.get(name)
        verdict = f"{ratio:8.1f} x   (goal {goal})" if name in GOALS else ""
        print(f"{name:24}{spread(values):>30}{verdict}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument(
        "--quick", action="store_true", help="a moment of each, to see that it works"
    )
    parser.add_argument(
        "--only", action="append", help="only this layer, as it is called in the table"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    rounds, seconds = (1, 0.1) if args.quick else (args.rounds, args.seconds)
    figures: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        layers = {
            "corecast": through_corecast(assist=False),
            "corecast, assist": through_corecast(assist=True),
        }
        wanted = args.only or [*layers, *GOALS]
        with redis(Path(folder)) if set(wanted) & set(GOALS) else nullcontext("") as socket:
            for kind in ("core", "pubsub"):
                layers[f"channels_redis {kind}"] = through_redis(kind, socket)
            for channels, paced in CASES:
                found: dict[str, list[float]] = {name: [] for name in layers if name in wanted}
                for number in range(rounds):
                    for name, values in found.items():
                        if sys.stderr.isatty():
                            case = name_of(channels, paced)
                            print(
                                f"\r{case}: {name}, {number + 1} of {rounds}\033[K",
                                end="",
                                file=sys.stderr,
                            )
                        rate, delay = round_of(layers[name], channels, seconds, paced)
                        values.append(delay if paced else rate)
                figures[name_of(channels, paced)] = found
                if "corecast" in found:
                    report(channels, paced, found)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
