"""Wrong input: an exception that names what was wrong, and nothing has changed."""

from __future__ import annotations

import array
from typing import Any, Callable

import pytest

import corecast
from corecast import errors

Call = Callable[[corecast.Core], Any]

CASES: dict[str, tuple[Call, type[Exception], str]] = {
    "body is str": (lambda c: c.send("a", "text"), TypeError, "bytes-like, not str; encode"),  # type: ignore[arg-type]
    "body is int": (lambda c: c.send("a", 7), TypeError, "not int"),  # type: ignore[arg-type]
    "body is None": (lambda c: c.send("a", None), TypeError, "not NoneType"),  # type: ignore[arg-type]
    "body has gaps": (lambda c: c.send("a", memoryview(b"abcd")[::2]), TypeError, "contiguous"),
    "name is int": (lambda c: c.send(7, b""), TypeError, "str or bytes, not int"),  # type: ignore[arg-type]
    "name is empty": (lambda c: c.send("", b""), errors.BadName, "empty; it needs 1 to 255"),
    "name is long": (lambda c: c.send("n" * 256, b""), errors.BadName, "256 bytes; at most 255"),
    "name has NUL": (lambda c: c.join("a\0b"), errors.BadName, "NUL byte at position 1"),
    "body is long": (
        lambda c: c.send("a", bytes(2000)),
        errors.MessageTooLarge,
        "2000 bytes.*1024",
    ),
    "many: one long": (
        lambda c: c.send_many("a", [b"x", bytes(2000)]),
        errors.MessageTooLarge,
        "2000 bytes",
    ),
    "many: no list": (lambda c: c.send_many("a", 7), TypeError, "not iterable"),  # type: ignore[arg-type]
    "many: str in it": (lambda c: c.send_many("a", [b"x", "y"]), TypeError, "not str"),  # type: ignore[list-item]
    "not joined": (lambda c: c.leave("a"), errors.NotJoined, "has not joined"),
    "timeout negative": (lambda c: c.recv(timeout=-1), ValueError, "0 or more seconds"),
    "timeout nan": (lambda c: c.recv(timeout=float("nan")), ValueError, "0 or more seconds"),
    "timeout is str": (lambda c: c.recv(timeout="1"), TypeError, "timeout"),  # type: ignore[arg-type]
    "handle is str": (lambda c: c.close_channel("a"), TypeError, "takes a Channel"),  # type: ignore[arg-type]
    "unknown ticket": (lambda c: c.join_result(-1), OverflowError, "negative"),
}


@pytest.fixture
def small() -> Any:
    with corecast.Hub(workers=1, max_message=1024, channels=2) as hub:
        yield hub


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_with_a_text(small: corecast.Hub, case: str) -> None:
    call, error, text = CASES[case]
    with small.attach(0) as core:
        with pytest.raises(error, match=text):
            call(core)
        assert core.joined == 0
        core.join("a")
        core.send("a", b"still works")
        message = core.recv(timeout=10)
        assert message is not None and message.body == b"still works"


def test_arrays_are_bytes_too(small: corecast.Hub) -> None:
    with small.attach(0) as core:
        core.join("a")
        core.send("a", array.array("H", [0x4142]))  # type: ignore[arg-type]
        message = core.recv(timeout=10)
        assert message is not None and message.body == b"BA"


def test_a_closed_core_says_so(small: corecast.Hub) -> None:
    core = small.attach(0)
    core.close()
    core.close()
    assert core.closed
    for call in (lambda: core.send("a", b""), core.recv, core.fileno, core.leave_all):
        with pytest.raises(errors.Detached, match="closed"):
            call()


def test_a_closed_hub_says_so_and_its_cores_that_the_master_is_gone() -> None:
    hub = corecast.Hub(workers=1)
    hub.start()
    core = hub.attach(0)
    hub.close()
    with pytest.raises(errors.Detached, match="closed"):
        hub.stats()
    with pytest.raises(errors.MasterGone):
        core.send("a", b"")
    with pytest.raises(errors.MasterGone):
        core.recv(timeout=5)


def test_all_channels_in_use(small: corecast.Hub) -> None:
    with small.attach(0) as core:
        core.join("a")
        core.join("b")
        with pytest.raises(errors.TooManyChannels, match="all 2 channels are in use"):
            core.join("c")
        core.leave_all()


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"workers": 0}, errors.ConfigError, "workers is 0; it must be at least 1"),
        ({"workers": -1}, errors.ConfigError, "workers is -1; it must be a number from 0 on"),
        ({"workers": "4"}, TypeError, "workers: .*int"),
        ({"queue_bytes": 1}, errors.ConfigError, "at least 4096"),
        ({"overflow": "maybe"}, ValueError, "drop_newest"),
        ({"spin": -1.0}, ValueError, "spin is -1"),
        ({"wrokers": 1}, TypeError, 'no setting "wrokers"'),
        ({"max_message": 1 << 40}, errors.ConfigError, "at most 1073741824 is possible"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        corecast.Hub(**settings)


def test_slots_that_are_not_there(small: corecast.Hub) -> None:
    with pytest.raises(errors.OutOfRange, match="this hub has 1 workers"):
        small.attach(7)
    with pytest.raises(IndexError, match="each worker has 1 cores"):
        small.attach(0, 1)
    cores = [small.attach() for _ in range(5)]
    with pytest.raises(errors.NoFreeSlot, match="all 5 slots"):
        small.attach()
    for core in cores:
        core.close()


def test_a_hub_has_one_master(small: corecast.Hub) -> None:
    for call in (small.start, small.poll, small.fileno):
        with pytest.raises(errors.MasterRunning):
            call()


def test_without_a_master_joining_times_out() -> None:
    hub = corecast.Hub(workers=1, answer_timeout=0.05)
    with hub.attach(0) as core, pytest.raises(TimeoutError, match="started or polled"):
        core.join("a")


def test_every_error_is_documented_and_an_error() -> None:
    for name, value in vars(errors).items():
        if isinstance(value, type):
            assert issubclass(value, corecast.Error), name
            assert value.__doc__, name


def test_a_process_without_a_hub_says_what_to_do() -> None:
    with pytest.raises(corecast.Error, match="use_hub"):
        corecast.attach()
