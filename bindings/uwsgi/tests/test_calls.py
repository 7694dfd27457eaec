"""Each call, in each mode: joining, sending, receiving, waiting, leaving."""

from concurrent.futures import ThreadPoolExecutor

from server import until
from suite import ALL, test


def nobody_is_subscribed(server):
    """The end of a request is behind its answer: waits for it."""
    until(lambda: server.stats()["subscriptions"] == 0, "no subscription is left")


@test(ALL, share=True)
def a_message_reaches_a_request_that_joined(server):
    got = server.run("""
uwsgi.channel_join("room")
uwsgi.channel_send("room", b"one")
uwsgi.channel_send(b"room", "two \\u00e9")
uwsgi.channel_send("room", memoryview(b"three"))
result = [uwsgi.channel_recv(5), uwsgi.channel_recv(None), uwsgi.channel_recv(timeout=5),
          uwsgi.channel_recv(), uwsgi.channel_recv(0.05)]
""")
    assert got == [b"one", "two \u00e9".encode(), b"three", None, None], got


@test(ALL, share=True)
def requests_that_run_at_the_same_time_get_each_others_messages_in_one_order(server):
    chat = """
import time
me = "%d"
uwsgi.channel_join("crowd")
end = time.monotonic() + 20
while uwsgi.channel_stats()["subscriptions"] < 2 and time.monotonic() < end:
    uwsgi.channel_wait(None, 0.01)
for n in range(20):
    uwsgi.channel_send("crowd", f"{me} {n}", timeout=5)
result = []
while len(result) < 40:
    m = uwsgi.channel_recv(20)
    if m is None: break
    result.append(m.decode())
uwsgi.channel_send("done", me)
"""
    nobody_is_subscribed(server)  # each begins when it sees two: none of an earlier test
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(lambda n: server.run(chat % n), range(2))
    assert one == two and sorted(one) == sorted(f"{m} {n}" for m in (0, 1) for n in range(20)), (
        one, two)


@test(ALL, share=True)
def a_message_says_its_channel_and_sender_and_what_was_lost(server):
    worker, message = server.run("""
uwsgi.channel_join("a"); uwsgi.channel_join("b")
uwsgi.channel_send("b", b"x")
m = uwsgi.channel_recv_message(5)
assert isinstance(m, uwsgi.ChannelMessage) and m.channel == m[0] == "b" and m.body == b"x"
result = uwsgi.worker_id(), tuple(m)
""")
    channel, body, sender, core, lost, ticket, timestamp = message
    assert (channel, body, sender, lost) == ("b", b"x", worker, 0), message
    assert core >= 0 and ticket >= 0 and timestamp > 1e9, message


@test(ALL, share=True)
def what_was_left_is_not_received_not_even_what_was_on_its_way(server):
    got = server.run("""
for name in "abc": uwsgi.channel_join(name)
for name in "abcabc": uwsgi.channel_send(name, name)
uwsgi.channel_wait(None, 5)
uwsgi.channel_leave("a")
first = uwsgi.channel_recv(5)
uwsgi.channel_leave("b")
second = uwsgi.channel_recv(5)
uwsgi.channel_leave_all()
result = [first, second, uwsgi.channel_recv(0.05)]
""")
    assert got == [b"b", b"c", None], got


@test(ALL, share=True)
def a_message_that_was_waited_for_survives_leaving_another_channel(server):
    got = server.run("""
uwsgi.channel_join("a"); uwsgi.channel_join("b")
uwsgi.channel_send("b", b"kept" * 100)
while not uwsgi.channel_wait(None, 5): pass
uwsgi.channel_leave("a")
result = uwsgi.channel_recv_message(5)[:2]
""")
    assert got == ("b", b"kept" * 100), got


@test(ALL, share=True)
def subscriptions_end_with_the_request(server):
    assert server.run("""
for n in range(50): uwsgi.channel_join(f"room {n}")
for n in range(50): uwsgi.channel_send(f"room {n}", b"never read")
result = uwsgi.channel_stats()["subscriptions"]
""") >= 50
    nobody_is_subscribed(server)
    got = server.run("uwsgi.channel_join('room 1'); result = uwsgi.channel_recv(0.1)")
    assert got is None, got


@test(ALL, share=True)
def subscriptions_end_with_a_request_that_fails(server):
    status, body = server.post("uwsgi.channel_join('a'); 1 / 0")
    assert status == 500 and "ZeroDivisionError" in body, body
    nobody_is_subscribed(server)


@test(ALL, share=True)
def the_descriptor_is_readable_only_when_there_is_something(server):
    got = server.run("""
import select
uwsgi.channel_join("a")
fd = uwsgi.channel_fd()
readable = lambda ms: bool(select.select([fd], [], [], ms)[0])
result = [uwsgi.channel_recv(), readable(0)]
for _ in range(3):
    uwsgi.channel_send("a", b"x")
    result += [readable(5), uwsgi.channel_recv(), uwsgi.channel_recv(), readable(0)]
""")
    assert got == [None, False] + 3 * [True, b"x", None, False], got


@test(ALL, share=True)
def waiting_ends_with_a_message_or_another_descriptor_or_the_time(server):
    got = server.run("""
import os
r, w = os.pipe()
uwsgi.channel_join("a")
uwsgi.channel_recv()
result = [uwsgi.channel_wait(r, 0.1)]
os.write(w, b"x")
result.append(uwsgi.channel_wait(r, 5))
os.read(r, 1)
uwsgi.channel_send("a", b"x")
result += [uwsgi.channel_wait(r, 5), uwsgi.channel_recv(), uwsgi.channel_wait(r, 0)]
os.close(r); os.close(w)
""")
    assert got == [False, True, True, b"x", False], got


@test(("threads", "gevent", "greenlet"), share=True)
def one_request_waits_while_others_of_its_worker_are_served(server):
    nobody_is_subscribed(server)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(server.run, """
uwsgi.channel_join("bell")
result = uwsgi.channel_recv(30)
""") for _ in range(4)]
        until(lambda: server.stats()["subscriptions"] == 4, "four are waiting")
        server.run("uwsgi.channel_send('bell', b'ring')")
        assert [each.result() for each in waiting] == [b"ring"] * 4
    nobody_is_subscribed(server)


@test(("processes", "threads", "gevent"), share=True)
def a_thread_of_the_application_has_a_core_of_its_own(server):
    got = server.run("""
import threading
try:
    from gevent.monkey import get_original
    start, join = get_original("_thread", "start_new_thread"), None
except ImportError:
    start = __import__("_thread").start_new_thread
import time
out = []
def body():
    uwsgi.channel_join("thread")
    out.append("joined")
    out.append(uwsgi.channel_recv(20))
    out.append(uwsgi.channel_recv(0.01))
start(body, ())
end = time.monotonic() + 20
while out != ["joined"] and time.monotonic() < end: time.sleep(0.001)
uwsgi.channel_join("request")
uwsgi.channel_send("thread", b"for the thread")
uwsgi.channel_send("request", b"for the request")
while len(out) < 3 and time.monotonic() < end: time.sleep(0.001)
result = out + [uwsgi.channel_recv(5), uwsgi.channel_recv(0.05)]
""")
    assert got == ["joined", b"for the thread", None, b"for the request", None], got
    nobody_is_subscribed(server)


@test(("gevent",), share=True)
def a_greenlet_that_serves_no_request_has_a_core_beside_the_requests(server):
    got = server.run("""
import gevent
def body():
    uwsgi.channel_join("greenlet")
    event.set()
    return [uwsgi.channel_recv(20), uwsgi.channel_recv(0.05)]
event = __import__("gevent.event").event.Event()
other = gevent.spawn(body)
event.wait()
uwsgi.channel_join("request")
uwsgi.channel_send("greenlet", b"for the greenlet")
uwsgi.channel_send("request", b"for the request")
result = other.get(timeout=20) + [uwsgi.channel_recv(5), uwsgi.channel_recv(0.05)]
gevent.spawn(uwsgi.channel_leave_all).join()
""")
    assert got == [b"for the greenlet", None, b"for the request", None], got
    nobody_is_subscribed(server)
    assert "[BUG]" not in server.said(), "uWSGI was asked for a request that is not there"
