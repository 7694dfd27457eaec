"""What one call costs from Python: send, receive, and both by view, in nanoseconds.

Each figure is the best of several rounds of a plain loop, less an empty loop's time. The master
runs only between the rounds, so that neither its work nor its wake-ups are counted.
"""

from __future__ import annotations

import time
from typing import Callable

import corecast

ROUND = 5_000
ROUNDS = 30
BODY = b"16 bytes of text"


def best(call: Callable[[], object], before: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        before()
        start = time.perf_counter_ns()
        for _ in range(ROUND):
            call()
        times.append((time.perf_counter_ns() - start) / ROUND)
    return min(times)


def measure() -> dict[str, float]:
    with corecast.Hub(lane_bytes=1 << 20, queue_bytes=1 << 20) as hub:
        hub.stop()
        hub.poll()
        ann, bob = hub.attach(0), hub.attach(1)
        ticket = bob.join_async("room")
        while not bob.join_result(ticket):
            hub.poll()
        send, recv, view = ann.send, bob.recv, bob.recv_view

        def route() -> None:
            while hub.poll():
                pass

        def drain_and_route() -> None:
            route()
            while bob.recv():
                pass

        def fill() -> None:
            drain_and_route()
            for _ in range(ROUND):
                send("room", BODY)
            route()

        empty = best(lambda: None, drain_and_route)
        figures = {
            "send(name, 16 bytes)": best(lambda: send("room", BODY), drain_and_route),
            "recv() of a message": best(recv, fill),
            "recv_view() of a message": best(view, fill),
            "recv().body": best(lambda: recv().body, fill),
            "recv() of nothing": best(recv, drain_and_route),
        }
        ann.close()
        bob.close()
        return {name: ns - empty for name, ns in figures.items()}


if __name__ == "__main__":
    for name, ns in measure().items():
        print(f"{name:30} {ns:7.0f} ns")
