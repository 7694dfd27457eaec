"""One process's end of the channel layers: a core, and what has come for this process.

Every process joins three kinds of corecast channels: a common one ("all"), one of its own, and
one per group that has members here. A group message is published once and spread here. Every
Channels channel has a *home*, the process that keeps its messages: for a process-local channel the
process in its name, for any other the one that a hash picks from those that are there. Who receives
from such a channel elsewhere asks its home; each message is handed to one who asked. When a
process comes, homes move; it says hello, and what has moved is sent on. When one dies, what it
kept is lost with it, and those who wait ask the next home.

The lock is held for short, never across an await, so that event loops in several threads can share
a station.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import re
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from contextlib import suppress
from typing import Any, Callable, Optional

import msgpack

from .. import errors
from ..core import Core
from ..hub import Hub
from ..process import attach, current_hub
from .mailboxes import Mailboxes, shared_part
from .readers import Readers

log = logging.getLogger("corecast.django")

Member = tuple[int, int]

# Unread bytes for one process: a few of the largest messages. Memory is taken as it is used.
QUEUE_BYTES = 4 << 20

_LOCAL = re.compile(r"\.([0-9a-f]{16}-(\d+)-(\d+))!")
_DEADLINE = struct.Struct("<d")
# Seconds: how long a remote channel counts as full; an answer may take; until a home is sought anew.
_FULL_FOR = 0.1
_ANSWER = 5.0
_LOOK = 1.0
# Homes that are remembered at most.
_HOMES = 10_000
# What a process sends to another's own channel.
_SEND, _HANDED, _WANT, _ADD, _DISCARD, _SIZE, _ANSWERED, _HELLO, _FLUSH, _FULL = range(10)

_stations: dict[tuple[int, str, int], Station] = {}
_own_hubs: dict[int, Hub] = {}
_making = threading.Lock()


def station_of_process(prefix: str, hub: Optional[Hub] = None) -> Station:
    """This process's station for a prefix; made at the first call, and anew after a fork."""
    key = (os.getpid(), prefix, id(hub) if hub else 0)
    station = _stations.get(key)
    if station is None:
        with _making:
            station = _stations.get(key) or _stations.setdefault(key, _make(prefix, hub))
    return station


def _make(prefix: str, hub: Optional[Hub]) -> Station:
    if hub is not None:
        return Station(prefix, hub, hub.attach())
    hub = current_hub()
    if hub is not None:
        return Station(prefix, hub, attach())
    own = _own_hubs.get(os.getpid())
    if own is None:
        own = _own_hubs[os.getpid()] = Hub(workers=1, cores=4, queue_bytes=QUEUE_BYTES)
        own.start()
    return Station(prefix, own, own.attach())


class Station:
    """See the module."""

    def __init__(self, prefix: str, hub: Hub, core: Core) -> None:
        self.prefix = prefix
        self.hub = hub
        self.core = core
        self.me: Member = (core.worker, core.core)
        self.lock = threading.RLock()
        self.counters: Counter[str] = Counter()
        self.readers = Readers(core.fileno(), self.pump)
        self.mail = Mailboxes(self.counters, self.readers.is_any_waited_for)
        self.locals: set[str] = set()
        self.groups: dict[str, dict[str, tuple[float, int]]] = {}
        self.wants: dict[str, deque[Member]] = defaultdict(deque)
        self.asked: dict[str, Member] = {}
        self.homes: dict[str, Member] = {}  # of process-local channels: their names say it
        self.full: dict[str, float] = {}
        self.answers: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[int], list[int]]]
        self.answers = {}
        self.numbers = itertools.count(1)
        self.actions: dict[int, Callable[..., None]] = {
            _SEND: self._on_send,
            _HANDED: self._on_handed,
            _WANT: self._on_want,
            _ADD: self._on_add,
            _DISCARD: self._on_discard,
            _SIZE: self._on_size,
            _ANSWERED: self._on_answer,
            _HELLO: self._on_hello,
            _FLUSH: self._on_flush,
            _FULL: self._on_full,
        }
        core.join(self._all)
        core.join(self._inbox(self.me))
        self._publish(self._all, _HELLO)

    # ------------------------------------------------------------------ names

    @property
    def _all(self) -> str:
        return f"{self.prefix}:all"

    def _inbox(self, member: Member) -> str:
        return f"{self.prefix}:to:{member[0]}.{member[1]}"

    def _group(self, group: str) -> str:
        return f"{self.prefix}:group:{group}"

    def home(self, channel: str) -> Member:
        """The process that keeps the messages of a channel."""
        known = self.homes.get(channel)
        if known is not None:
            return known
        local = _LOCAL.search(channel)
        if local:
            if len(self.homes) >= _HOMES:
                self.homes.clear()
            return self.homes.setdefault(channel, (int(local[2]), int(local[3])))
        members = self.hub.subscribers(self._all)
        if len(members) <= 1:
            return self.me

        def weight(member: Member) -> bytes:
            text = f"{channel} {member[0]}.{member[1]}".encode()
            return hashlib.blake2b(text, digest_size=8).digest()

        return max(members, key=weight)

    # ---------------------------------------------------------------- sending

    def _publish(self, to: str, kind: int, *fields: Any) -> None:
        with self.lock:
            self.core.send(to, msgpack.packb((kind, *fields)), 1.0)

    async def _when_there_is_room(self, to: str, body: bytes) -> bool:
        """Sends; False when the lane stayed full for a second."""
        for pause in (0.0, 0.001, 0.01, 0.1, 0.9):
            if pause:
                await asyncio.sleep(pause)
            with suppress(errors.LaneFull), self.lock:
                self.core.send(to, body)
                return True
        self.counters["lane_full"] += 1
        log.warning("corecast: a message was not sent: the router is a second behind")
        return False

    async def send(self, channel: str, packed: bytes, expiry: float, capacity: int) -> bool:
        """False: the channel is full."""
        now, home = time.time(), self.home(channel)
        with self.lock:
            self.pump()  # it may say that a channel is full
            if home == self.me:
                if not self.mail.reserve(channel, capacity, now):
                    return False
            elif self.full and self._is_full(channel, now):
                return False
        fields = (_SEND, channel, packed, now + expiry, capacity, self.me)
        sent = await self._when_there_is_room(self._inbox(home), msgpack.packb(fields))
        if not sent and home == self.me:
            self.mail.unreserve(channel)
        return sent

    def _is_full(self, channel: str, now: float) -> bool:
        names = (channel, shared_part(channel))
        return any(self.full.get(name, 0) > now for name in names)

    async def group_send(self, group: str, packed: bytes, expiry: float) -> None:
        """Publishes once; each process spreads it to its members of the group."""
        body = _DEADLINE.pack(time.time() + expiry) + packed
        await self._when_there_is_room(self._group(group), body)

    # -------------------------------------------------------------- receiving

    async def receive(self, channel: str) -> bytes:
        """The next message, waiting for it."""
        loop = asyncio.get_running_loop()
        waiter = None
        while True:
            with self.lock:
                if waiter is not None:
                    self.readers.done(channel, waiter)
                packed = self._next(channel)
                if packed is not None:
                    return packed
                far = self._ask_home(channel)
                waiter = self.readers.wait(loop, channel)
            try:
                if far:
                    await asyncio.wait_for(waiter, _LOOK)
                else:
                    await waiter
            except asyncio.TimeoutError:
                continue
            except BaseException:
                with self.lock:
                    self.readers.done(channel, waiter)
                    self._hand_on(channel)
                raise

    def _next(self, channel: str) -> Optional[bytes]:
        """What has come for a channel."""
        self.mail.asked(channel)
        packed = self.mail.take(channel, time.time())
        if packed is None:
            self.pump()
            packed = self.mail.take(channel, time.time())
        return packed

    def _hand_on(self, channel: str) -> None:
        """A reader here was cancelled: what was put aside for it is for those who wait elsewhere."""
        now = time.time()
        while self.wants.get(channel) and not self.readers.is_waited_for(channel):
            entry = self.mail.take_entry(channel, now)
            if entry is None:
                return
            self._put(channel, *entry, 1 << 30, now)

    def _ask_home(self, channel: str) -> bool:
        """Asks for a message of a channel that is kept elsewhere; False for our own."""
        home = self.home(channel)
        if home == self.me:
            self.asked.pop(channel, None)
            return False
        if self.asked.get(channel) != home:
            self.asked[channel] = home
            self._publish(self._inbox(home), _WANT, channel, self.me)
        return True

    def pump(self) -> None:
        """Takes what has come from the core and puts it where it is waited for."""
        with self.lock:
            while (message := self.core.recv()) is not None:
                name = message.channel[len(self.prefix) + 1 :]
                if name.startswith("group:"):
                    self._spread(name[6:], message.body)
                else:
                    kind, *fields = msgpack.unpackb(message.body)
                    self.actions[kind](*fields)
            lost = self.core.lost - self.counters["lost"]
            if lost:
                self.counters["lost"] += lost
                log.warning("corecast: %s messages lost: the queue was full (queue_bytes)", lost)

    def _spread(self, group: str, body: bytes) -> None:
        members = self.groups.get(group)
        if not members:
            return
        (deadline,), packed = _DEADLINE.unpack_from(body), body[_DEADLINE.size :]
        now, full = time.time(), 0
        admitted: dict[str, bool] = {"": True}
        for channel, (expires, capacity) in list(members.items()):
            if expires <= now:
                self._leave(group, channel)
                continue
            part = shared_part(channel)
            if part not in admitted:
                admitted[part] = self.mail.admit(channel, capacity)
            if not admitted[part]:
                self.counters["dropped"] += 1
                full += 1
            elif not self._put(channel, packed, deadline, capacity, now):
                full += 1
        if full:
            text = "%s of %s channels over capacity in group %s"
            log.info(text, full, len(members), group)

    def _put(self, channel: str, packed: bytes, deadline: float, capacity: int, now: float) -> bool:
        wanted = self.wants.get(channel)
        if wanted and not self.readers.is_waited_for(channel):
            there = self.hub.subscribers(self._all)
            while wanted:
                member = wanted.popleft()
                if member in there:
                    inbox = self._inbox(member)
                    self._publish(inbox, _HANDED, channel, packed, deadline, capacity)
                    return True
        if not self.mail.put(channel, packed, deadline, capacity, now):
            return False
        self.readers.wake(channel)
        return True

    # ----------------------------------------------------- what others ask of us

    def _on_send(
        self, channel: str, packed: bytes, deadline: float, capacity: int, sender: list[int]
    ) -> None:
        from_me = tuple(sender) == self.me
        if from_me:
            self.mail.unreserve(channel)
        local = _LOCAL.search(channel)
        if local and local[1] not in self.locals:
            self.counters["stale"] += 1  # of a process that had this slot before
            return
        home = self.home(channel)
        if home != self.me:  # it has moved meanwhile
            self._send_on(home, channel, packed, deadline, capacity)
        elif not self.mail.admit(channel, capacity):
            self.counters["dropped"] += 1
            self._say_full(shared_part(channel))
        elif not self._put(channel, packed, deadline, capacity, time.time()) and not from_me:
            self._say_full(channel)

    def _say_full(self, name: str) -> None:
        log.info("channel %s over capacity", name)
        self._publish(self._all, _FULL, name)

    def _on_handed(self, channel: str, packed: bytes, deadline: float, capacity: int) -> None:
        self.asked.pop(channel, None)
        if self.readers.is_waited_for(channel):
            self.mail.put(channel, packed, deadline, capacity, time.time())
            self.readers.wake(channel)
        else:  # whoever asked has gone: others may wait
            self._send_on(self.home(channel), channel, packed, deadline, capacity)

    def _send_on(
        self, home: Member, channel: str, packed: bytes, deadline: float, capacity: int
    ) -> None:
        """To where a message is kept now; who sent it no longer matters."""
        fields = (channel, packed, deadline, capacity, (-1, -1))
        self._publish(self._inbox(home), _SEND, *fields)

    def _on_want(self, channel: str, member: list[int]) -> None:
        who = (member[0], member[1])
        taken = self.mail.take_entry(channel, time.time())
        if taken is None:
            if who not in self.wants[channel]:
                self.wants[channel].append(who)
            return
        packed, deadline = taken
        self._publish(self._inbox(who), _HANDED, channel, packed, deadline, 1)

    def _on_full(self, channel: str) -> None:
        self.full[channel] = time.time() + _FULL_FOR

    def _on_hello(self) -> None:
        """A process has come: what is no longer kept here goes to where it is now."""
        now = time.time()
        for channel in [c for c in self.mail.names() if self.home(c) != self.me]:
            while (entry := self.mail.take_entry(channel, now)) is not None:
                self._send_on(self.home(channel), channel, *entry, 1 << 30)
        for channel in [c for c in self.wants if self.home(c) != self.me]:
            for member in self.wants.pop(channel):
                self._publish(self._inbox(self.home(channel)), _WANT, channel, member)
        self._move_memberships(now)
        self.readers.wake_all()

    def _move_memberships(self, now: float) -> None:
        for group, members in list(self.groups.items()):
            for channel, (expires, capacity) in list(members.items()):
                home = self.home(channel)
                if home != self.me:
                    fields = (group, channel, expires - now, capacity, self.me, 0)
                    self._publish(self._inbox(home), _ADD, *fields)
                    self._leave(group, channel)

    # ----------------------------------------------------------------- groups

    async def group_add(self, group: str, channel: str, expiry: float, capacity: int) -> None:
        """Adds a channel at its home; returns once the home has joined the group."""
        home = self.home(channel)
        if home == self.me:
            self._join(group, channel, time.time() + expiry, capacity)
        else:
            await self._request(self._inbox(home), 1, _ADD, group, channel, expiry, capacity)

    async def group_discard(self, group: str, channel: str) -> None:
        """Takes a channel out at its home."""
        home = self.home(channel)
        if home == self.me:
            self._leave(group, channel)
        else:
            await self._request(self._inbox(home), 1, _DISCARD, group, channel)

    async def group_size(self, group: str) -> int:
        """The members of all processes together."""
        others = [m for m in self.hub.subscribers(self._group(group)) if m != self.me]
        sizes = await asyncio.gather(
            *(self._request(self._inbox(member), 1, _SIZE, group) for member in others)
        )
        return self._size(group) + sum(sizes)

    async def _request(self, to: str, expected: int, kind: int, *fields: Any) -> int:
        """Asks; returns the sum of the answers. A process that has gone answers 0."""
        loop = asyncio.get_running_loop()
        number, future = next(self.numbers), loop.create_future()
        self.answers[number] = (loop, future, [expected, 0])
        with self.lock:
            self.readers.wait(loop, f"answer {number}")
        try:
            self._publish(to, kind, *fields, self.me, number)
            self.pump()  # what has been taken to the last arms the notification of the answer
            return int(await asyncio.wait_for(future, _ANSWER))
        except asyncio.TimeoutError:
            return 0
        finally:
            with self.lock:
                del self.answers[number]
                self.readers.forget(f"answer {number}")

    def _answer(self, asker: list[int], number: int, value: int) -> None:
        if number:
            self._publish(self._inbox((asker[0], asker[1])), _ANSWERED, number, value)

    def _on_answer(self, number: int, value: int) -> None:
        loop, future, state = self.answers.get(number, (None, None, [0, 0]))
        state[0], state[1] = state[0] - 1, state[1] + value
        if loop is not None and future is not None and state[0] <= 0:

            def settle() -> None:
                if not future.done():
                    future.set_result(state[1])

            loop.call_soon_threadsafe(settle)

    def _on_add(
        self,
        group: str,
        channel: str,
        expiry: float,
        capacity: int,
        asker: list[int],
        number: int,
    ) -> None:
        self._join(group, channel, time.time() + expiry, capacity)
        self._answer(asker, number, 1)

    def _on_discard(self, group: str, channel: str, asker: list[int], number: int) -> None:
        self._leave(group, channel)
        self._answer(asker, number, 1)

    def _on_size(self, group: str, asker: list[int], number: int) -> None:
        self._answer(asker, number, self._size(group))

    def _size(self, group: str) -> int:
        with self.lock:
            now = time.time()
            return sum(expires > now for expires, _ in self.groups.get(group, {}).values())

    def _join(self, group: str, channel: str, expires: float, capacity: int) -> None:
        with self.lock:
            members = self.groups.setdefault(group, {})
            if not members:
                self.core.join(self._group(group))
            members[channel] = (expires, capacity)

    def _leave(self, group: str, channel: str) -> None:
        with self.lock:
            members = self.groups.get(group)
            if members is None or members.pop(channel, None) is None or members:
                return
            del self.groups[group]
            with suppress(errors.NotJoined):
                self.core.leave(self._group(group))

    # ------------------------------------------------------------------ flush

    async def flush(self) -> None:
        """Returns when every process that is there has forgotten everything."""
        expected = len(self.hub.subscribers(self._all))
        await self._request(self._all, expected, _FLUSH)

    def _on_flush(self, asker: list[int], number: int) -> None:
        for group in list(self.groups):
            for channel in list(self.groups.get(group, ())):
                self._leave(group, channel)
        self.mail.clear()
        self.full.clear()
        self._answer(asker, number, 0)
