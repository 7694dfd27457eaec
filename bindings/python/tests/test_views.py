"""Messages in place: no copy, and never a wild pointer."""

from __future__ import annotations

import gc

import pytest

import corecast
from corecast import errors


def received(core: corecast.Core, *bodies: bytes) -> corecast.MessageView:
    core.send_many("a", bodies)
    view = core.recv_view(timeout=10)
    assert view is not None
    return view


@pytest.fixture
def core(hub: corecast.Hub) -> corecast.Core:
    core = hub.attach(0)
    core.join("a")
    return core


def test_a_view_shows_the_queue_itself(core: corecast.Core) -> None:
    view = received(core, b"hello" * 1000)
    with view.body as body:
        assert (body[:5], len(body), body.readonly) == (b"hello", 5000, True)
        assert (body.format, body.shape, body.strides) == ("B", (5000,), (1,))
        assert body.toreadonly()[4999:] == b"o"
    assert (view.channel, view.sender, len(view)) == ("a", (0, 0), 5000)


def test_using_a_message_after_the_next_receive_is_an_exception(core: corecast.Core) -> None:
    first = received(core, b"one", b"two")
    assert bytes(first.body) == b"one"
    second = core.recv_view(timeout=10)
    assert second is not None and bytes(second.body) == b"two"
    with pytest.raises(errors.StaleMessage, match="use recv"):
        first.body
    assert first.channel == "a"
    assert core.recv() is None
    with pytest.raises(errors.StaleMessage):
        second.body


def test_the_core_does_not_receive_while_bytes_are_exported(core: corecast.Core) -> None:
    view = received(core, b"one", b"two")
    body = view.body
    part = body[1:]
    for call in (core.recv, core.recv_view, core.close):
        with pytest.raises(BufferError, match="release its memoryview"):
            call()
    body.release()
    with pytest.raises(BufferError):
        core.recv()
    core.send("a", part)  # sending a part of what was received is fine
    assert bytes(part) == b"ne"
    part.release()
    assert [m.body for m in (core.recv(10), core.recv(10)) if m] == [b"two", b"ne"]


def test_bytes_stay_readable_when_core_and_hub_are_forgotten() -> None:
    hub = corecast.Hub(workers=1)
    hub.start()
    core = hub.attach(0)
    core.join("a")
    body = received(core, b"kept").body
    del core
    hub.close()
    del hub
    gc.collect()
    assert bytes(body) == b"kept"
    body.release()
    gc.collect()


def test_a_view_cannot_be_written_to(core: corecast.Core) -> None:
    body = received(core, b"one").body
    with pytest.raises(TypeError, match="read-only"):
        body[0] = 1


def test_closing_ends_the_view(core: corecast.Core) -> None:
    view = received(core, b"one")
    core.close()
    with pytest.raises(errors.StaleMessage):
        view.body
