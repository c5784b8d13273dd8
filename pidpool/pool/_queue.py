"""Who gets the next connection: idle ones, free slots, and the line of those who wait. No SQLAlchemy, no I/O.

All state is in three deques, and every change of it is one atomic operation on one of them. There is no mutex, so there
is none to inherit locked across a fork, and none to deadlock on when the garbage collector returns a forgotten
connection in the middle of one of these functions.

Those who wait are served first come, first served, and what comes back is put into their hands; only when connections
come back faster than threads can be switched may a running thread go on for a millisecond (docs/adr/0003).

The one rule that makes this sound: *whoever makes something available looks at the line afterwards, and whoever joins
the line looks at what is available afterwards.* Of two threads that do so at the same time, at least one sees the
other.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: How long a waiter whose time is up lets a thread finish that is just handing it something (seconds): a few opcodes,
#: if nobody interrupts it.
_HAND_OVER: Final = 1.0

#: How often a waiter looks at what is available by itself (seconds). It finds something only after an interrupt has
#: struck somebody between making a thing available and looking at the line.
_LOOK_AGAIN: Final = 1.0

#: When things come back faster than a thread can be woken (seconds), whoever runs may take them again: handing each one
#: over would make everybody wait for a switch of threads, every time. ...
_FASTER_THAN_A_SWITCH: Final = 10e-6
#: ... but this often (seconds) one of those who wait is served all the same, first come, first served.
_TURN: Final = 1e-3


def _drop(_: object) -> None:
    pass


class Slot:
    """The right to have one connection open. Whoever drops it gives it back, whatever the reason: none is lost."""

    __slots__ = ("_in_use", "_queue")

    #: Weak, so that a queue that nobody uses any more is not kept alive, or filled again, by its own slots.
    _queue: weakref.ref[Queue[Any]]
    _in_use: bool

    def __init__(self, queue: weakref.ref[Queue[Any]]) -> None:
        self._queue = queue
        self._in_use = False

    def take(self) -> Slot:
        """Mark it as in use."""
        queue = self._queue()
        if queue is not None:
            queue._taken.add(id(self))
        self._in_use = True
        return self

    def give_back(self) -> None:
        """Make room for another connection. Idempotent."""
        queue = self._queue()
        if self._in_use and queue is not None:
            queue._taken.discard(id(self))
            put = queue.put_free
            # CPython looks for signals after a call. So there is no interrupt between these two.
            self._in_use = False
            put(self)
            queue.look_at_line()

    def __del__(self) -> None:
        # Dropped with an exception's traceback, or by an interrupt between two steps. Python calls __del__ only once
        # for an object, so a fresh slot takes this one's place.
        queue = self._queue()
        if queue is not None:
            queue._taken.discard(id(self))
            if queue.capacity is not None:
                queue.put_free(Slot(self._queue))
                queue.look_at_line()


class Waiter(Generic[T]):
    """One place in the line. Whoever waits makes it and waits; others serve it. How one waits, a subclass says."""

    __slots__ = ("_seat", "given")

    #: What has been handed over; None until then.
    given: T | Slot | None
    #: Has one element until somebody takes it: the one who serves, or the one who waits and leaves. So neither is
    #: anything handed to somebody who is gone, nor does anybody go who is just being served.
    _seat: list[None]

    def __init__(self) -> None:
        self.given = None
        self._seat = [None]

    def is_waiting(self) -> bool:
        """Tell whether it can still be served."""
        return bool(self._seat)

    def is_served(self) -> bool:
        """Tell whether something has been handed over."""
        return self.given is not None

    def leave(self) -> bool:
        """Do not be served any more; return False if that comes too late, and something is being handed over."""
        try:
            self._seat.pop()
        except IndexError:
            return False
        return True

    def hand_over(self, thing: T | Slot) -> bool:
        """Serve the waiter; return False if it has left."""
        if not self.leave():
            return False
        self.given = thing
        self.wake()
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until ``given`` or woken; tell whether it was that, and not the time being up."""
        raise NotImplementedError

    def expect(self, seconds: float) -> bool:
        """Wait a moment for another thread, which is about to hand something over; tell whether it has."""
        raise NotImplementedError

    def wake(self) -> None:
        """Have the waiter look for itself."""
        raise NotImplementedError


class ThreadWaiter(Waiter[T]):
    """A thread in line. The lock is held until something is put in ``given``, or until it is time to look."""

    __slots__ = ("_lock", "_woken")

    def __init__(self) -> None:
        super().__init__()
        self._woken = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float) -> bool:
        """Block the thread: see ``Waiter``."""
        if not self._lock.acquire(timeout=seconds):
            return False
        self._woken = False  # and look at ``given`` afterwards: whoever serves sets that first
        return True

    def expect(self, seconds: float) -> bool:
        """Block the thread for a moment: see ``Waiter``."""
        deadline = time.monotonic() + seconds
        while not self.is_served() and self.wait(max(0.0, deadline - time.monotonic())):
            pass
        return self.is_served()

    def wake(self) -> None:
        """Have the thread look for itself."""
        if not self._woken:
            self._woken = True
            self._lock.release()


class Queue(Generic[T]):
    """Idle items, free slots and waiters of one pool in one process.

    How those in line wait is the only thing that differs between threads and tasks: ``TaskQueue`` says how tasks do.

    Args:
        keep: how many idle items to keep; None for as many as there are.
        capacity: how many slots there are; None for no limit.
        use_lifo: hand out the item that came back last, rather than the one that has been idle longest.

    """

    __slots__ = (
        "__weakref__",
        "_free",
        "_looked",
        "_new_slot",
        "_served",
        "_taken",
        "capacity",
        "idle",
        "keep",
        "most",
        "pop_idle",
        "put_free",
        "use_lifo",
        "wait_seconds",
        "waiters",
        "waits",
    )

    #: How often somebody stood in line, and for how long all together (seconds).
    waits: int
    wait_seconds: float

    #: Items that nobody uses; the right end came back last.
    idle: deque[T]
    #: Slots that nobody uses. Empty for ever where there is no limit.
    _free: deque[Slot]
    #: First come, first served.
    waiters: deque[Waiter[T]]
    #: When somebody last looked at the line, and last served it (``time.monotonic()``).
    _looked: float
    _served: float
    #: The ids of the slots in use: a set, because adding and discarding are atomic and counting with ``+= 1`` is not.
    _taken: set[int]
    _new_slot: Callable[[], Slot]
    #: Puts a slot among the free ones; nothing where there is no limit.
    put_free: Callable[[Slot], None]
    #: Takes an idle item or raises IndexError: what a checkout does when nothing stands in its way.
    pop_idle: Callable[[], T]

    def __init__(self, keep: int | None, capacity: int | None, *, use_lifo: bool = False) -> None:
        self.keep = keep
        self.most = sys.maxsize if keep is None else keep
        self.capacity = capacity
        self.use_lifo = use_lifo
        self.idle = deque()
        self.waiters = deque()
        self.waits = 0
        self.wait_seconds = self._looked = self._served = 0.0
        self._taken = set()
        # A weak reference with a callback is cleared before the garbage collector runs any finalizer.
        here = weakref.ref(self, lambda _: None)
        self._new_slot = functools.partial(Slot, here)
        self._free = deque(Slot(here) for _ in range(capacity or 0))
        self.put_free = self._free.append if capacity is not None else _drop
        self.pop_idle = self.idle.pop if use_lifo else self.idle.popleft

    @property
    def open(self) -> int:
        """How many slots are in use: items that are idle, out, or just being made."""
        return len(self._taken)

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self.waiters)

    def take(self, timeout: float | None, max_waiting: int | None = None) -> T | Slot | None:
        """Return an idle item, or else a slot for a new one; wait in line for either.

        Args:
            timeout: how long to wait (seconds); None for ever.
            max_waiting: do not join a line that is so long already; None for no limit.

        Returns:
            None if the time is up, or the line too long.

        """
        try:
            return self.pop_idle()
        except IndexError:
            pass
        slot = self._take_slot()
        if slot is not None:
            return slot
        if max_waiting is not None and len(self.waiters) >= max_waiting:
            return None
        return self._wait(timeout)

    def give(self, item: T) -> T | None:
        """Put ``item`` among the idle, and hand one of them to each who waits, first come, first served.

        Returns:
            An idle item that is one too many: the caller closes it and gives its slot back.

        """
        self.idle.append(item)
        return self.settle()

    def settle(self) -> T | None:
        """Serve those who wait, now that there is something idle.

        Returns:
            An idle item that is one too many, as ``give`` does.

        """
        self.look_at_line()
        if len(self.idle) > self.most:
            try:
                return self.idle.pop()
            except IndexError:  # taken in the meantime
                pass
        return None

    def take_surplus(self, too_old: Callable[[T], bool], least: int) -> T | None:
        """Return the item that has been idle longest, if it is ``too_old`` and more than ``least`` slots are in use."""
        try:
            if len(self._taken) <= least or not too_old(self.idle[0]):
                return None
            item = self.idle.popleft()
        except IndexError:
            return None
        if too_old(item):
            return item
        self.idle.appendleft(item)  # another thread took the old one between our look and our grasp
        self.look_at_line()
        return None

    def fresh(self) -> Queue[T]:
        """Return a queue with the same settings and nothing in it."""
        return type(self)(self.keep, self.capacity, use_lifo=self.use_lifo)

    def _waiter(self) -> Waiter[T]:
        return ThreadWaiter()

    def _take_slot(self) -> Slot | None:
        if self.capacity is None:
            return self._new_slot().take()
        try:
            return self._free.pop().take()
        except IndexError:
            return None

    def look_at_line(self) -> None:
        """Serve those who wait, if any: to be called by whoever has made something available."""
        if not self.waiters:
            return
        now = time.monotonic()
        since, self._looked = now - self._looked, now
        if since < _FASTER_THAN_A_SWITCH and now - self._served < _TURN:
            with suppress(IndexError):  # the line is gone meanwhile
                head = self.waiters[0]
                if head.is_waiting():
                    head.wake()
                    return
        self._served = now
        self._serve()

    def _serve(self) -> None:
        """Match the line with what is available, until one of them is empty."""
        given: T | Slot | None = None
        while True:
            try:
                waiter = self.waiters.popleft()
            except IndexError:
                if given is not None:  # meant for one who will never fetch it
                    self._put_back(given)
                return
            if not waiter.is_waiting():  # it lined up twice, or has left
                continue
            if given is None:
                try:
                    given = self.pop_idle()
                except IndexError:
                    given = self._take_slot()
            if given is not None:
                if waiter.hand_over(given):
                    given = None
                continue
            # Back to the head of the line; and since it was not in line for a moment, look again.
            self.waiters.appendleft(waiter)
            if not self.idle and not self._free:
                return

    def _wait(self, timeout: float | None) -> T | Slot | None:
        waiter = self._waiter()
        lined_up_again = False
        started = time.monotonic()
        deadline = math.inf if timeout is None else started + timeout
        try:
            self.waiters.append(waiter)
            self._serve()
            while not waiter.is_served():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    self._leave(waiter)
                    break
                if not waiter.wait(min(remaining, _LOOK_AGAIN)):
                    lined_up_again = True
                    waiter = self._line_up_again(waiter)
                if not waiter.is_served():
                    self._serve()
        except BaseException:  # an interrupt: whatever was handed over meanwhile goes to the next in line
            self._leave(waiter)
            if waiter.given is not None:
                self._put_back(waiter.given)
                self._serve()
            raise
        finally:
            if lined_up_again:
                self._forget(waiter)
            waited = time.monotonic() - started
            self.waits += 1
            self.wait_seconds += waited
            if self.idle or self._free:  # it may have been us who was woken for it
                self._serve()
        return waiter.given

    def _line_up_again(self, waiter: Waiter[T]) -> Waiter[T]:
        """Go back to the head of the line, if somebody has taken us out of it and has not served us."""
        if not waiter.is_waiting():
            if waiter.expect(_HAND_OVER):
                return waiter
            waiter = self._waiter()  # it was interrupted, with our seat in its hand
        if waiter not in self.waiters:
            self.waiters.appendleft(waiter)
        return waiter

    def _leave(self, waiter: Waiter[T]) -> None:
        """Step out of the line, unless somebody is just serving us: then take what comes."""
        if not waiter.leave():
            waiter.expect(_HAND_OVER)
        self._forget(waiter)

    def _forget(self, waiter: Waiter[T]) -> None:
        with suppress(ValueError):
            while True:
                self.waiters.remove(waiter)

    def _put_back(self, given: T | Slot) -> None:
        if isinstance(given, Slot):
            given.give_back()  # looks at the line itself
        else:
            self.idle.append(given)


class Passage(Queue[T]):
    """A queue that keeps nothing, not even for the moment in which another thread could take it."""

    __slots__ = ()

    def give(self, item: T) -> T:
        """Return ``item``: it is one too many."""
        return item
