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
from typing import Any, Callable, Optional, Union

import msgpack

from .. import errors
from ..core import Core
from ..hub import Hub
from ..process import attach, current_hub
from .groups import Group
from .letters import Letter
from .mailboxes import Mailboxes, shared_part
from .readers import Readers, Waiter

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
# Seconds that a reader waits at most for what its process has sent before.
_SETTLED = 0.1
# Names that are remembered at most, of homes and of groups.
_NAMES = 10_000
# What a process sends to another's own channel.
_SEND, _HANDED, _WANT, _ADD, _DISCARD, _SIZE, _ANSWERED, _HELLO, _FLUSH, _FULL = range(10)

_stations: dict[tuple[int, str, int], Station] = {}
_own_hubs: dict[int, Hub] = {}
_making = threading.Lock()


class Forks:
    """How often this process has been forked off: cheaper to ask than for its number."""

    count = 0


def _after_fork() -> None:
    Forks.count += 1


os.register_at_fork(after_in_child=_after_fork)


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
        self.groups: dict[str, Group] = {}  # by the name of the hub's channel
        self._to_groups = f"{prefix}:group:"
        self.group_names: dict[str, str] = {}
        self.lost = 0
        # Whether nothing is left in the core, so that its descriptor tells of what comes next.
        self.is_armed = False
        # Messages sent since all of them were known to have arrived.
        self.unsettled = 0
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
        name = self.group_names.get(group)
        if name is None:
            if len(self.group_names) >= _NAMES:
                self.group_names.clear()
            # One and the same object each time: the core knows it again without a look at it.
            name = self.group_names[group] = f"{self.prefix}:group:{group}"
        return name

    def home(self, channel: str) -> Member:
        """The process that keeps the messages of a channel."""
        known = self.homes.get(channel)
        if known is not None:
            return known
        local = _LOCAL.search(channel)
        if local:
            if len(self.homes) >= _NAMES:
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
            self.is_armed = False  # should it wait, it reads the descriptor
            self.unsettled += 1
            self.core.send(to, msgpack.packb((kind, *fields)), 1.0)

    async def _when_there_is_room(self, to: str, body: bytes) -> bool:
        """Sends; False when the lane stayed full for a second."""
        for pause in (0.0, 0.001, 0.01, 0.1, 0.9):
            if pause:
                await asyncio.sleep(pause)
            with suppress(errors.LaneFull), self.lock:
                self.core.send(to, body)
                self.unsettled += 1
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
        to, body = self._group(group), _DEADLINE.pack(time.time() + expiry) + packed
        try:
            with self.lock:
                self.core.send(to, body)
                self.unsettled += 1
        except errors.LaneFull:
            await self._when_there_is_room(to, body)

    # -------------------------------------------------------------- receiving

    async def settle(self) -> None:
        """Takes what has come when all that was sent from here until now has arrived.

        A reader whose process has sent as much as fills a channel waits for this: or it would depend on
        the router's pace which of these messages find the channel full.
        """
        until = time.monotonic() + _SETTLED
        with self.lock:
            sent, self.unsettled = self.core.position, 0
        while True:
            with self.lock:
                if self.core.routed_position >= sent or time.monotonic() >= until:
                    self.pump()
                    return
            await asyncio.sleep(0)

    def ask(self, channel: str) -> Union[Letter, Waiter]:
        """The next message, or what :meth:`arrival` waits for."""
        mail = self.mail
        with self.lock:
            if mail.untaken:
                mail.asked(channel)
            if channel in mail.boxes:
                letter = mail.take(channel, time.time())
                if letter is not None:
                    return letter
            if not self.is_armed:
                self.pump()
                letter = mail.take(channel, time.time())
                if letter is not None:
                    return letter
            return self.readers.wait(asyncio.get_running_loop(), channel)

    async def arrival(self, channel: str, waiter: Waiter) -> Letter:
        """What a reader waits for that has asked."""
        while True:
            try:
                if "!" not in channel and self._ask_home(channel):
                    letter = await asyncio.wait_for(waiter, _LOOK)
                else:
                    letter = await waiter
            except asyncio.TimeoutError:
                with self.lock:
                    self.readers.forget(channel, waiter)
            except BaseException:
                with self.lock:
                    self._give_up(channel, waiter)
                raise
            else:
                if letter is not None:
                    return letter
            found = self.ask(channel)
            if isinstance(found, Letter):
                return found
            waiter = found

    def _give_up(self, channel: str, waiter: Waiter) -> None:
        """A reader was cancelled: what it got, or was put aside for it, is for others who wait."""
        self.readers.forget(channel, waiter)
        if waiter.done() and not waiter.cancelled():
            letter = waiter.result()
            if letter is not None:
                self.mail.put_back(channel, letter)
        now = time.time()
        while (letter := self.mail.take(channel, now)) is not None:
            if not self._hand_on(channel, letter, 1 << 30):
                self.mail.put_back(channel, letter)
                self.readers.wake(channel)
                return

    def _hand_on(self, channel: str, letter: Letter, capacity: int) -> bool:
        """Gives a message to one who waits, here or elsewhere; False if none does."""
        if not self.readers.hand((channel,), letter):
            part = shared_part(channel)
            if part:
                self.readers.served.add(part)
            return True
        wanted = self.wants.get(channel) if self.wants else None
        if not wanted or self.readers.is_waited_for(channel):
            return False
        there = self.hub.subscribers(self._all)
        while wanted:
            member = wanted.popleft()
            if member in there:
                fields = (channel, letter.packed, letter.deadline, capacity)
                self._publish(self._inbox(member), _HANDED, *fields)
                return True
        return False

    def _ask_home(self, channel: str) -> bool:
        """Asks for a message of a channel that is kept elsewhere; False for our own."""
        with self.lock:
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
            recv, groups = self.core.recv, self.groups
            while (message := recv()) is not None:
                name = message.channel
                group = groups.get(name)
                if group is not None:
                    self._spread(name, group, message.body)
                elif not name.startswith(self._to_groups):
                    kind, *fields = msgpack.unpackb(message.body)
                    self.actions[kind](*fields)
            self.is_armed = True
            self.readers.all_served()
            lost = self.core.lost
            if lost != self.lost:
                self._has_lost(lost)

    def _has_lost(self, lost: int) -> None:
        new, self.lost = lost - self.lost, lost
        self.counters["lost"] += new
        log.warning("corecast: %s messages lost: the queue was full (queue_bytes)", new)

    def _spread(self, name: str, group: Group, body: bytes) -> None:
        now = time.time()
        for channel in group.ended(now):
            self._leave(name, channel)
        (deadline,) = _DEADLINE.unpack_from(body)
        channels = group.channels
        letter = Letter(body[_DEADLINE.size :], deadline, len(channels) > 1)
        left = self.readers.hand(channels, letter) if deadline > now else list(channels)
        self.readers.served |= group.parts_without(left)
        if left:
            self._keep(name, group, left, letter, now)

    def _keep(self, name: str, group: Group, left: list[str], letter: Letter, now: float) -> None:
        """A group message for those of its channels for which nobody waits in this loop."""
        full, admitted = 0, {"": True}
        for channel in left:
            _, capacity, part = group.channels[channel]
            if part not in admitted:
                admitted[part] = self.mail.admit(part, capacity)
            if not admitted[part]:
                self.counters["dropped"] += 1
                full += 1
            elif self.wants and letter.deadline > now and self._hand_on(channel, letter, capacity):
                continue
            elif not self._put(channel, letter, capacity, now):
                full += 1
        if full:
            text = "%s of %s channels over capacity in group %s"
            log.info(text, full, len(group.channels), name[len(self._to_groups) :])

    def _put(self, channel: str, letter: Letter, capacity: int, now: float) -> bool:
        """Keeps it for whoever asks next; False: the channel is full."""
        if not self.mail.put(channel, letter, capacity, now):
            return False
        if channel in self.readers.waiters:  # in another thread's loop
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
        home, now, letter = self.home(channel), time.time(), Letter(packed, deadline)
        if home != self.me:  # it has moved meanwhile
            self._send_on(home, channel, letter, capacity)
        elif deadline > now and self._hand_on(channel, letter, capacity):
            return
        elif not self.mail.admit(shared_part(channel), capacity):
            self.counters["dropped"] += 1
            self._say_full(shared_part(channel))
        elif not self._put(channel, letter, capacity, now) and not from_me:
            self._say_full(channel)

    def _say_full(self, name: str) -> None:
        log.info("channel %s over capacity", name)
        self._publish(self._all, _FULL, name)

    def _on_handed(self, channel: str, packed: bytes, deadline: float, capacity: int) -> None:
        self.asked.pop(channel, None)
        letter = Letter(packed, deadline)
        if not self.readers.hand((channel,), letter):
            return
        if self.readers.is_waited_for(channel):
            self._put(channel, letter, capacity, time.time())
        else:  # whoever asked has gone: others may wait
            self._send_on(self.home(channel), channel, letter, capacity)

    def _send_on(self, home: Member, channel: str, letter: Letter, capacity: int) -> None:
        """To where a message is kept now; who sent it no longer matters."""
        fields = (channel, letter.packed, letter.deadline, capacity, (-1, -1))
        self._publish(self._inbox(home), _SEND, *fields)

    def _on_want(self, channel: str, member: list[int]) -> None:
        who = (member[0], member[1])
        letter = self.mail.take(channel, time.time())
        if letter is None:
            if who not in self.wants[channel]:
                self.wants[channel].append(who)
            return
        self._publish(self._inbox(who), _HANDED, channel, letter.packed, letter.deadline, 1)

    def _on_full(self, channel: str) -> None:
        self.full[channel] = time.time() + _FULL_FOR

    def _on_hello(self) -> None:
        """A process has come: what is no longer kept here goes to where it is now."""
        now = time.time()
        for channel in [c for c in self.mail.names() if self.home(c) != self.me]:
            while (letter := self.mail.take(channel, now)) is not None:
                self._send_on(self.home(channel), channel, letter, 1 << 30)
        for channel in [c for c in self.wants if self.home(c) != self.me]:
            for member in self.wants.pop(channel):
                self._publish(self._inbox(self.home(channel)), _WANT, channel, member)
        self._move_memberships(now)
        self.readers.wake_all()

    def _move_memberships(self, now: float) -> None:
        for name, group in list(self.groups.items()):
            for channel, (ends, capacity, _) in list(group.channels.items()):
                home = self.home(channel)
                if home != self.me:
                    plain = name[len(self._to_groups) :]
                    fields = (plain, channel, ends - now, capacity, self.me, 0)
                    self._publish(self._inbox(home), _ADD, *fields)
                    self._leave(name, channel)

    # ----------------------------------------------------------------- groups

    async def group_add(self, group: str, channel: str, expiry: float, capacity: int) -> None:
        """Adds a channel at its home; returns once the home has joined the group."""
        home = self.home(channel)
        if home == self.me:
            self._join(self._group(group), channel, time.time() + expiry, capacity)
        else:
            await self._request(self._inbox(home), 1, _ADD, group, channel, expiry, capacity)

    async def group_discard(self, group: str, channel: str) -> None:
        """Takes a channel out at its home."""
        home = self.home(channel)
        if home == self.me:
            self._leave(self._group(group), channel)
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
            self.readers.watch(loop)
        try:
            self._publish(to, kind, *fields, self.me, number)
            self.pump()  # what has been taken to the last arms the notification of the answer
            return int(await asyncio.wait_for(future, _ANSWER))
        except asyncio.TimeoutError:
            return 0
        finally:
            del self.answers[number]

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
        self._join(self._group(group), channel, time.time() + expiry, capacity)
        self._answer(asker, number, 1)

    def _on_discard(self, group: str, channel: str, asker: list[int], number: int) -> None:
        self._leave(self._group(group), channel)
        self._answer(asker, number, 1)

    def _on_size(self, group: str, asker: list[int], number: int) -> None:
        self._answer(asker, number, self._size(group))

    def _size(self, group: str) -> int:
        with self.lock:
            here = self.groups.get(self._group(group))
            return here.size(time.time()) if here else 0

    def _join(self, name: str, channel: str, ends: float, capacity: int) -> None:
        with self.lock:
            group = self.groups.get(name)
            if group is None:
                self.is_armed = False  # a wait for an answer reads the descriptor
                self.core.join(name)
                group = self.groups[name] = Group()
            group.add(channel, ends, capacity)

    def _leave(self, name: str, channel: str) -> None:
        with self.lock:
            group = self.groups.get(name)
            if group is None or group.channels.pop(channel, None) is None or group.channels:
                return
            del self.groups[name]
            self.is_armed = False
            with suppress(errors.NotJoined):
                self.core.leave(name)

    # ------------------------------------------------------------------ flush

    async def flush(self) -> None:
        """Returns when every process that is there has forgotten everything."""
        expected = len(self.hub.subscribers(self._all))
        await self._request(self._all, expected, _FLUSH)

    def _on_flush(self, asker: list[int], number: int) -> None:
        for name, group in list(self.groups.items()):
            for channel in list(group.channels):
                self._leave(name, channel)
        self.mail.clear()
        self.full.clear()
        self._answer(asker, number, 0)
