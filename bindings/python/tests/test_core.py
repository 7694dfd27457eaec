"""Hub and core: sending, receiving, waiting, in one process and across fork."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import Callable

import pytest

import corecast
from corecast import errors

Fork = Callable[[Callable[[], None]], int]


def test_a_message_arrives_with_all_that_is_known_of_it(hub: corecast.Hub) -> None:
    with hub.attach(0) as ann, hub.attach(1, 1) as bob:
        bob.join("lobby")
        ann.send("lobby", b"hello")
        message = bob.recv(timeout=10)
        assert message is not None
        assert (message.body, message.channel, message.sender) == (b"hello", "lobby", (0, 0))
        assert (message.lost, len(message), bytes(message)) == (0, 5, b"hello")
        assert abs(message.timestamp / 1e9 - time.time()) < 3600
        assert "lobby" in repr(message)
        assert hub.subscribers("lobby") == [(1, 1)]
        assert hub.stats()["deliveries"] == 1


def test_names_may_be_any_bytes_and_survive_the_way(hub: corecast.Hub) -> None:
    with hub.attach(0) as core:
        for name, shown in [
            ("küche", "küche"),
            (b"raw\xff", "raw\udcff"),
            ("raw\udcff", "raw\udcff"),
        ]:
            core.join(name)
            core.send(name, b"x")
            message = core.recv(timeout=10)
            assert message is not None and message.channel == shown
            core.leave(name)


@pytest.mark.parametrize("body", [b"", b"abc", bytearray(b"abc"), memoryview(b"xabc")[1:]])
def test_bodies_are_bytes_like(hub: corecast.Hub, body: bytes) -> None:
    with hub.attach(0) as core:
        core.join("a")
        core.send("a", body)
        message = core.recv(timeout=10)
        assert message is not None and message.body == bytes(body)


def test_a_core_can_tell_when_what_it_has_sent_is_in_the_queues(hub: corecast.Hub) -> None:
    with hub.attach(0) as ann, hub.attach(1) as bob:
        bob.join("lobby")
        for _ in range(100):
            ann.send("lobby", b"x")
            until = time.monotonic() + 10
            sent = ann.position
            while ann.routed_position < sent:
                assert time.monotonic() < until
            assert bob.recv() is not None


def test_send_many_and_handles(hub: corecast.Hub) -> None:
    with hub.attach(0) as core:
        core.join("many")
        channel = core.open("many")
        assert channel.name == "many" and "many" in repr(channel)
        assert core.send_many("many", [b"1", b"2"]) == 2
        assert core.send_many(channel, (str(n).encode() for n in (3, 4))) == 2
        core.send(channel, b"5")
        bodies = []
        while len(bodies) < 5:
            message = core.recv(timeout=10)
            assert message is not None
            bodies.append(message.body)
        assert bodies == [b"1", b"2", b"3", b"4", b"5"]
        core.close_channel(channel)
        core.leave("many")
        with pytest.raises(errors.StaleChannel, match="no longer open"):
            send_until_refused(core, channel)


def send_until_refused(core: corecast.Core, channel: corecast.Channel) -> None:
    """A handle is refused once the router has closed it."""
    for _ in range(1000):
        core.send(channel, b"")
        time.sleep(0.01)


def test_what_is_lost_is_told_with_the_next_message() -> None:
    with corecast.Hub(workers=1, queue_bytes=4096, max_message=1024) as hub:
        with hub.attach(0) as core, hub.attach() as sender:
            core.join("flood")
            for _ in range(100):
                sender.send("flood", bytes(1000), timeout=10)
            settled(hub, 100)
            got = list(core.pending())
            sender.send("flood", b"last")
            last = core.recv(timeout=10)
            got += [last] if last else []
            got += core.pending()
            assert got[-1].body == b"last"
            assert sum(m.lost for m in got) == core.lost == hub.stats()["lost"] > 0
            assert len(got) + core.lost == 101


def settled(hub: corecast.Hub, messages: int) -> None:
    while hub.stats()["messages"] < messages:
        time.sleep(0.001)


def test_a_full_lane_refuses_or_waits() -> None:
    hub = corecast.Hub(workers=1, lane_bytes=4096, max_message=1000)
    hub.poll()
    with hub.attach(0) as core:
        with pytest.raises(errors.LaneFull, match="lane_bytes"):
            for _ in range(1000):
                core.send("a", bytes(1000))
        with pytest.raises(errors.TimedOut):
            core.send("a", bytes(1000), timeout=0.01)
        stopped = threading.Event()

        def route() -> None:
            while not stopped.is_set():
                hub.poll(0.01)

        router = threading.Thread(target=route)
        router.start()
        core.send("a", bytearray(1000), timeout=None)
        stopped.set()
        router.join()
    hub.close()


def test_polling_with_the_hosts_own_loop() -> None:
    hub = corecast.Hub(workers=1)
    with hub.attach(0) as core:
        fd = hub.fileno()
        ticket = core.join_async("a")
        assert select.select([fd], [], [], 10)[0]
        while not core.join_result(ticket):
            hub.poll(timeout=1)
        core.send("a", b"x")
        assert hub.poll(timeout=10) == 1
        assert core.recv() is not None
        assert core.recv() is None
        core.send("a", b"y")
        hub.poll()
        assert select.select([core], [], [], 10)[0]
    hub.close()


def test_each_thread_has_a_core(hub: corecast.Hub) -> None:
    ready, heard = threading.Barrier(3), []

    def listen(worker: int) -> None:
        with hub.attach(worker) as core:
            core.join("all")
            ready.wait()
            for message in core:
                heard.append((worker, message.body))
                if message.body == b"end":
                    return

    threads = [threading.Thread(target=listen, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    with hub.attach(0) as core:
        ready.wait()
        core.send_many("all", [b"one", b"end"])
        for thread in threads:
            thread.join()
    for worker in (1, 2):
        assert [b for w, b in heard if w == worker] == [b"one", b"end"]


def test_a_second_thread_in_the_same_core_is_told(hub: corecast.Hub) -> None:
    with hub.attach(0) as core:
        thread = threading.Thread(target=lambda: core.recv(timeout=0.5))
        thread.start()
        with pytest.raises(errors.InUse, match="another thread"):
            while thread.is_alive():
                core.send("a", b"x")
        thread.join()
        core.send("a", b"x")


def test_signals_end_a_wait(hub: corecast.Hub) -> None:
    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with hub.attach(0) as core, pytest.raises(Rung):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            core.recv(timeout=None)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_workers_talk_and_their_memberships_end_with_them(hub: corecast.Hub, fork: Fork) -> None:
    with hub.attach(3) as core:
        core.join("up")

        def work() -> None:
            mine = hub.attach(1)
            mine.join("down")
            mine.send("up", b"ready")
            message = mine.recv(timeout=30)
            assert message is not None and message.body == b"die"
            os._exit(0)

        fork(work)
        message = core.recv(timeout=30)
        assert message is not None and message.sender == (1, 0)
        assert hub.subscribers("down") == [(1, 0)]
        core.send("down", b"die")
        while hub.subscribers("down"):
            time.sleep(0.001)


def test_a_core_from_before_the_fork_is_refused(hub: corecast.Hub, fork: Fork) -> None:
    core = hub.attach(0)
    core.join("a")

    def use() -> None:
        for call in (lambda: core.send("a", b"x"), core.recv, lambda: core.join("b")):
            with pytest.raises(errors.WrongProcess, match="attach again after fork"):
                call()
        with pytest.raises(errors.WrongProcess):
            core.close()
        mine = hub.attach(1)
        mine.send("a", b"from the child")

    fork(use)
    message = core.recv(timeout=30)
    assert message is not None and message.body == b"from the child"
    core.close()


def test_a_slot_is_free_again_when_a_core_is_dropped(hub: corecast.Hub) -> None:
    for _ in range(3):
        core = hub.attach(0)
        with pytest.raises(errors.Busy, match="attached by process"):
            hub.attach(0)
        del core
