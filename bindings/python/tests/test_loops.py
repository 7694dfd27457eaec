"""asyncio and gevent."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

import corecast
from corecast import errors


async def test_async_for_gets_messages_as_they_come(hub: corecast.Hub) -> None:
    with hub.attach(0) as core, hub.attach(1) as sender:
        await core.ajoin("a")
        asyncio.get_running_loop().call_later(0.02, sender.send_many, "a", [b"1", b"2", b"3"])
        heard = []
        async for message in core:
            heard.append(message.body)
            if len(heard) == 3:
                break
        assert heard == [b"1", b"2", b"3"]


async def test_two_cores_play_ping_pong_in_one_loop(hub: corecast.Hub) -> None:
    async def play(core: corecast.Core, hear: str, say: str) -> int:
        for turn in range(200):
            if say == "ping":
                core.send(say, b"%d" % turn)
            assert (await core.arecv()).body == b"%d" % turn
            if say == "pong":
                core.send(say, b"%d" % turn)
        return turn

    with hub.attach(0) as ann, hub.attach(1) as bob:
        await asyncio.gather(ann.ajoin("pong"), bob.ajoin("ping"))
        assert await asyncio.gather(play(ann, "pong", "ping"), play(bob, "ping", "pong")) == [
            199,
            199,
        ]


async def test_a_flood_leaves_the_loop_to_others(hub: corecast.Hub) -> None:
    """A core that is always ready must not starve the loop's other tasks."""
    with hub.attach(0) as core, hub.attach(1) as sender:
        await core.ajoin("a")
        sender.send_many("a", [b"x"] * 2000)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking, heard = asyncio.create_task(tick()), 0
        async for _ in core:
            heard += 1
            if heard == 2000:
                break
        ticking.cancel()
        assert ticks >= 2000 // 128 - 1


async def test_waiting_can_be_cancelled_and_loses_nothing(hub: corecast.Hub) -> None:
    with hub.attach(0) as core, hub.attach(1) as sender:
        await core.ajoin("a")
        for turn in range(20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(core.arecv(), 0.001)
            sender.send("a", b"%d" % turn)
            assert (await asyncio.wait_for(core.arecv(), 10)).body == b"%d" % turn


async def test_closing_ends_the_wait(hub: corecast.Hub) -> None:
    core = hub.attach(0)
    task = asyncio.create_task(core.arecv())
    await asyncio.sleep(0.01)
    core.close()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_core_outlives_its_loops(hub: corecast.Hub) -> None:
    with hub.attach(0) as core, hub.attach(1) as sender:
        core.join("a")

        async def one() -> bytes:
            asyncio.get_running_loop().call_later(0.01, sender.send, "a", b"x")
            return (await core.arecv()).body

        assert [asyncio.run(one()) for _ in range(3)] == [b"x"] * 3


async def test_a_forgotten_core_leaves_nothing_in_the_loop(hub: corecast.Hub) -> None:
    core = hub.attach(0)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(core.arecv(), 0.01)
    del core
    gc.collect()
    with hub.attach(0) as again, hub.attach(1) as sender:
        await again.ajoin("a")
        sender.send("a", b"x")
        assert (await asyncio.wait_for(again.arecv(), 10)).body == b"x"


async def test_a_join_that_is_refused_raises() -> None:
    with corecast.Hub(workers=1, channels=1) as hub, hub.attach(0) as core:
        await core.ajoin("a")
        with pytest.raises(errors.TooManyChannels):
            await core.ajoin("b")


async def test_messages_from_another_thread_wake_the_loop(hub: corecast.Hub) -> None:
    with hub.attach(0) as core:
        await core.ajoin("a")

        def send() -> None:
            with hub.attach(1) as mine:
                for n in range(50):
                    mine.send("a", b"%d" % n)

        thread = threading.Thread(target=send)
        thread.start()
        assert [(await core.arecv()).body for _ in range(50)] == [b"%d" % n for n in range(50)]
        thread.join()


GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, corecast, corecast.gevent
with corecast.Hub(workers=2) as hub, hub.attach(0) as core, hub.attach(1) as sender:
    core.join("a")
    assert corecast.gevent.recv(core, timeout=0.01) is None
    ticks = 0
    def tick():
        global ticks
        while True:
            ticks += 1
            gevent.sleep(0.001)
    ticking = gevent.spawn(tick)
    gevent.spawn_later(0.05, sender.send_many, "a", [b"1", b"2"])
    assert corecast.gevent.recv(core, timeout=10).body == b"1"
    assert ticks > 3, "other greenlets ran meanwhile"
    heard = []
    gevent.spawn_later(0.02, sender.send, "a", b"3")
    for message in corecast.gevent.messages(core):
        heard.append(message.body)
        if message.body == b"3":
            break
    assert heard == [b"2", b"3"], heard
    ticking.kill()
print("done")
"""


def test_gevent_lets_other_greenlets_run() -> None:
    ran = subprocess.run([sys.executable, "-c", GEVENT], capture_output=True, text=True, timeout=50)
    assert ran.stdout == "done\n", ran.stderr
