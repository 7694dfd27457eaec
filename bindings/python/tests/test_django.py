"""The channel layer between processes, and where it promises more than Channels asks for."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable
from typing import Any, Callable

import async_timeout
import pytest
from channels.exceptions import ChannelFull

import corecast
from corecast.django import ChannelLayer

Fork = Callable[[Callable[[], None]], int]


@pytest.fixture
def layer(hub: corecast.Hub) -> ChannelLayer:
    return ChannelLayer(hub=hub)


def child(hub: corecast.Hub, body: Callable[[ChannelLayer], Awaitable[Any]]) -> Callable[[], None]:
    """A process with a layer of its own."""

    def run() -> None:
        corecast.use_hub(hub, lambda: hub.attach(1))
        asyncio.run(asyncio.wait_for(body(ChannelLayer()), 40))  # type: ignore[arg-type]

    return run


async def soon(look: Callable[[], Awaitable[bool]]) -> None:
    async with async_timeout.timeout(40):
        while not await look():
            await asyncio.sleep(0.005)


async def test_processes_send_to_each_other(
    hub: corecast.Hub, layer: ChannelLayer, fork: Fork
) -> None:
    mine = await layer.new_channel()

    async def answer(theirs: ChannelLayer) -> None:
        channel = await theirs.new_channel()
        await theirs.group_add("room", channel)
        await theirs.send(mine, {"type": "hello", "from": channel})
        assert (await theirs.receive(channel))["text"] == "to you"
        assert (await theirs.receive(channel))["text"] == "to all"

    fork(child(hub, answer))
    hello = await asyncio.wait_for(layer.receive(mine), 40)
    await layer.send(hello["from"], {"type": "x", "text": "to you"})
    await layer.group_send("room", {"type": "x", "text": "to all"})


async def test_membership_ends_with_the_process_that_held_it(
    hub: corecast.Hub, layer: ChannelLayer, fork: Fork
) -> None:
    mine = await layer.new_channel()
    await layer.group_add("room", mine)

    async def join_and_die(theirs: ChannelLayer) -> None:
        for _ in range(3):
            await theirs.group_add("room", await theirs.new_channel())
        assert await theirs.group_size("room") == 4
        await theirs.send(mine, {"type": "joined"})
        await asyncio.sleep(60)

    def body() -> None:
        if os.fork() == 0:
            child(hub, join_and_die)()
        os._exit(0)

    fork(body)
    assert (await asyncio.wait_for(layer.receive(mine), 40))["type"] == "joined"
    assert await layer.group_size("room") == 4
    holder = [who for who in hub.subscribers("asgi:all") if who[0] == 1]
    assert holder == [(1, 0)]
    os.kill(pid_of(hub), signal.SIGKILL)

    async def alone() -> bool:
        return await layer.group_size("room") == 1

    await soon(alone)
    assert hub.stats()["reaped"] == 1


def pid_of(hub: corecast.Hub) -> int:
    """Who holds core 0 of worker 1: the refusal to attach says so."""
    with pytest.raises(corecast.errors.Busy) as refused:
        hub.attach(1)
    return int(str(refused.value).split("process ")[1])


async def test_a_normal_channel_has_readers_in_several_processes(
    hub: corecast.Hub, layer: ChannelLayer, fork: Fork
) -> None:
    """Each message comes to one of them, wherever the channel is kept."""
    done = await layer.new_channel()

    async def work(theirs: ChannelLayer) -> None:
        while True:
            job = await theirs.receive("jobs")
            await theirs.send(done, {"type": "done", "job": job["job"], "by": "child"})
            if job["job"] < 0:
                return

    async def work_here() -> None:
        while True:
            job = await layer.receive("jobs")
            await layer.send(done, {"type": "done", "job": job["job"], "by": "parent"})

    await layer.send("jobs", {"type": "job", "job": 0})  # before anybody reads
    here = asyncio.create_task(work_here())
    fork(child(hub, work))

    async def both_there() -> bool:
        return len(hub.subscribers("asgi:all")) == 2

    await soon(both_there)
    for job in range(1, 40):
        await layer.send("jobs", {"type": "job", "job": job})
    finished = [await asyncio.wait_for(layer.receive(done), 40) for _ in range(40)]
    assert sorted(answer["job"] for answer in finished) == list(range(40))
    here.cancel()
    async with async_timeout.timeout(40):
        while (await end(layer, done))["by"] != "child":
            pass


async def end(layer: ChannelLayer, done: str) -> dict[str, Any]:
    await layer.send("jobs", {"type": "job", "job": -1})
    return await layer.receive(done)


async def test_a_full_channel_elsewhere_is_told_to_the_sender(
    hub: corecast.Hub, layer: ChannelLayer, fork: Fork
) -> None:
    mine = await layer.new_channel()

    async def flood(theirs: ChannelLayer) -> None:
        with pytest.raises(ChannelFull):
            while True:
                await theirs.send(mine, {"type": "x"})
                await asyncio.sleep(0.001)

    pid = fork(child(hub, flood))

    async def ended() -> bool:
        return layer.statistics().get("dropped", 0) > 0 and os.path.exists(f"/proc/{pid}")

    async def watch() -> bool:
        layer._station().pump()
        return await ended()

    await soon(watch)


async def test_drops_are_counted_and_logged(
    layer: ChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    with caplog.at_level(logging.INFO, "corecast.django"):
        for _ in range(105):
            await layer.group_send("room", {"type": "x"})

        async def dropped() -> bool:
            layer._station().pump()
            return layer.statistics().get("dropped", 0) == 5

        await soon(dropped)
    texts = {record.getMessage() for record in caplog.records}
    assert texts == {"1 of 1 channels over capacity in group room"}


async def test_a_member_that_expired_gets_nothing(hub: corecast.Hub) -> None:
    layer = ChannelLayer(hub=hub, group_expiry=0.05)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    assert await layer.group_size("room") == 1
    await asyncio.sleep(0.06)
    assert await layer.group_size("room") == 0
    await layer.group_send("room", {"type": "x"})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(layer.receive(channel), 0.1)
    assert hub.subscribers("asgi:group:room") == []


async def test_messages_of_a_megabyte_and_each_reader_its_own_copy() -> None:
    layer = ChannelLayer(prefix="large")
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x", "text": "m" * 1_000_000, "list": [1]})
    first, second = [await layer.receive(channel) for channel in channels]
    first["list"].append(2)
    assert second["list"] == [1] and len(second["text"]) == 1_000_000


@pytest.mark.parametrize("more", [{}, {"list": [1]}])
async def test_readers_of_a_group_share_nothing_that_can_be_changed(
    layer: ChannelLayer, more: dict[str, Any]
) -> None:
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    sent = {"type": "x", "n": 1, **more}
    await layer.group_send("room", sent)
    for channel in channels:
        message = await asyncio.wait_for(layer.receive(channel), 40)
        assert message == sent
        message["n"] = 2
        message.get("list", []).append(2)


async def test_what_a_reader_was_handed_that_is_cancelled_goes_to_the_next(
    layer: ChannelLayer,
) -> None:
    """It is cancelled after it got its message and before it runs."""
    channel = await layer.new_channel()
    station = layer._station()
    for others in (0, 1):
        readers = [asyncio.create_task(layer.receive(channel)) for _ in range(1 + others)]
        await asyncio.sleep(0)
        await layer.send(channel, {"type": "first"})
        await layer.send(channel, {"type": "second"})
        while not station.mail.boxes and station.readers.waiters:
            station.pump()
        readers[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await readers[0]
        left = [await asyncio.wait_for(reader, 40) for reader in readers[1:]]
        left += [await asyncio.wait_for(layer.receive(channel), 40) for _ in range(2 - others)]
        assert sorted(message["type"] for message in left) == ["first", "second"]
        if not others:  # and in the order in which they came
            assert left[0]["type"] == "first"
    assert not station.mail.boxes and not station.readers.waiters


async def test_a_reader_in_another_threads_loop_gets_what_this_one_takes(
    layer: ChannelLayer,
) -> None:
    channel, answers = await layer.new_channel(), await layer.new_channel()

    async def read() -> list[int]:
        got = []
        for _ in range(100):
            got.append((await asyncio.wait_for(layer.receive(channel), 40))["n"])
            await layer.send(answers, {"type": "got", "n": got[-1]})
        return got

    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(read())))
    for n in range(100):
        await layer.send(channel, {"type": "x", "n": n})
        assert (await asyncio.wait_for(layer.receive(answers), 40))["n"] == n
    assert await other == list(range(100))


async def test_names_that_come_and_go_leave_nothing_behind(layer: ChannelLayer) -> None:
    station = layer._station()
    for turn in range(200):
        channel = await layer.new_channel()
        await layer.group_add(f"room{turn}", channel)
        await layer.send(channel, {"type": "x"})
        await layer.receive(channel)
        await layer.group_discard(f"room{turn}", channel)
    state = (station.mail.boxes, station.mail.reserved, station.readers.waiters, station.groups)
    assert [len(kept) for kept in state] == [0, 0, 0, 0]
    assert station.core.joined == 2


async def test_a_layer_without_a_hub_makes_its_own() -> None:
    layer = ChannelLayer(prefix="alone")
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}


async def test_what_nobody_asks_for_fills_the_process_for_all_its_channels(
    hub: corecast.Hub,
) -> None:
    layer = ChannelLayer(hub=hub, capacity=3)
    first, second = await layer.new_channel(), await layer.new_channel()
    other = await layer.new_channel("other")
    for _ in range(3):
        await layer.send(first, {"type": "x"})
    for channel in (first, second):
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "x"})
    await layer.send(other, {"type": "x"})  # another part up to the `!`
    await layer.receive(first)
    await layer.send(second, {"type": "x"})
    assert await layer.receive(second) == {"type": "x"}


async def test_a_slow_reader_takes_no_room_of_one_that_waits(hub: corecast.Hub) -> None:
    layer = ChannelLayer(hub=hub, capacity=3)
    slow, quick = await layer.new_channel(), await layer.new_channel()
    waits = asyncio.create_task(layer.receive(quick))
    await asyncio.sleep(0)
    for _ in range(3):
        await layer.send(slow, {"type": "x"})
    with pytest.raises(ChannelFull):
        await layer.send(slow, {"type": "x"})
    await layer.send(quick, {"type": "quick"})
    assert await asyncio.wait_for(waits, 40) == {"type": "quick"}


async def test_a_group_message_counts_once_for_the_channels_of_a_process(
    hub: corecast.Hub,
) -> None:
    layer = ChannelLayer(hub=hub, capacity=3)
    channels = [await layer.new_channel() for _ in range(10)]
    for channel in channels:
        await layer.group_add("room", channel)
    for n in range(4):
        await layer.group_send("room", {"type": "x", "n": n})

    async def dropped() -> bool:
        layer._station().pump()
        return layer.statistics().get("dropped", 0) == len(channels)

    await soon(dropped)
    for channel in channels:
        assert [(await layer.receive(channel))["n"] for _ in range(3)] == [0, 1, 2]


async def test_what_was_sent_before_a_reader_asks_finds_the_channel_as_it_was(
    hub: corecast.Hub,
) -> None:
    layer = ChannelLayer(hub=hub, capacity=3)
    for turn in range(500):
        channel = await layer.new_channel(f"c{turn}")
        await layer.group_add("room", channel)
        for n in range(4):
            if n == 3:  # the router may fall asleep in between, at another moment each time
                until = time.perf_counter() + turn % 100 * 1e-6
                while time.perf_counter() < until:
                    pass
            await layer.group_send("room", {"type": "x", "n": n})
        assert [(await layer.receive(channel))["n"] for _ in range(3)] == [0, 1, 2]
        await layer.group_discard("room", channel)
        assert layer.statistics()["dropped"] == turn + 1


async def test_a_full_process_is_full_to_senders_of_another(
    hub: corecast.Hub, layer: ChannelLayer, fork: Fork
) -> None:
    first, second = await layer.new_channel(), await layer.new_channel()
    other = await layer.new_channel("other")  # it does not share their part

    async def until_full(theirs: ChannelLayer) -> None:
        for _ in range(100):
            await theirs.send(first, {"type": "x"})
        with pytest.raises(ChannelFull):
            while True:
                await theirs.send(second, {"type": "x"})
                await asyncio.sleep(0.001)
        await theirs.send(other, {"type": "full"})

    fork(child(hub, until_full))

    async def dropped() -> bool:
        layer._station().pump()
        return layer.statistics().get("dropped", 0) > 0

    await soon(dropped)
    assert await asyncio.wait_for(layer.receive(other), 40) == {"type": "full"}
    assert layer._station().mail.names() == [first]  # of the second, none found room
