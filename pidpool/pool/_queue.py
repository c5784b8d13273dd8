"""Who gets the next connection: idle ones, free slots, and the line of those who wait. No SQLAlchemy, no I/O.

All state is in three deques, and every change of it is one atomic operation on one of them. There is no mutex, so there
is none to inherit locked across a fork, and none to deadlock on when the garbage collector returns a forgotten
connection in the middle of one of these functions.

The one rule that makes this sound: *whoever makes something available looks at the line afterwards, and whoever joins
the line looks at what is available afterwards.* Of two threads that do so at the same time, at least one sees the
other.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: How long a waiter whose time is up lets a thread finish that has just taken it out of the line (seconds).
_HAND_OVER: Final = 0.05


class Slot:
    """The right to have one connection open. Whoever drops it gives it back, whatever the reason: none is lost."""

    __slots__ = ("_queue", "_taken")

    def __init__(self, queue: Queue[object], *, taken: bool) -> None:
        self._queue = queue
        self._taken = taken
        if taken:
            queue._taken.add(id(self))

    def take(self) -> Slot:
        """Mark it as in use."""
        self._taken = True
        self._queue._taken.add(id(self))
        return self

    def give_back(self) -> None:
        """Make room for another connection. Idempotent."""
        if self._taken:
            self._taken = False
            self._queue._taken.discard(id(self))
            self._queue._slot_is_free(self)

    def __del__(self) -> None:
        # Dropped with an exception's traceback, or by an interrupt between two steps. Python calls __del__ only once
        # for an object, so a fresh slot takes this one's place.
        self._queue._taken.discard(id(self))
        if self._taken:
            self._taken = False
            self._queue._slot_is_free(Slot(self._queue, taken=False))


class Waiter(Protocol[T]):
    """One place in the line. Whoever waits makes it and waits; others serve it."""

    #: What has been handed over; None until then.
    given: T | Slot | None

    def serve(self, given: T | Slot) -> bool:
        """Hand ``given`` over and wake the one who waits; return False if nobody will ever fetch it."""

    def wait(self, seconds: float | None) -> bool:
        """Return True as soon as something has been handed over, or False when the time is up; None: wait for ever."""

    def expect(self, seconds: float) -> bool:
        """As ``wait``, for the moment in which another thread is about to hand something over."""


class ThreadWaiter(Generic[T]):
    """A thread in line. The lock is held until something is put in ``given``."""

    __slots__ = ("_lock", "given")

    def __init__(self) -> None:
        self.given: T | Slot | None = None
        self._lock = threading.Lock()
        self._lock.acquire()  # released by whoever serves this waiter

    def serve(self, given: T | Slot) -> bool:
        """Wake the thread: see ``Waiter``."""
        self.given = given
        self._lock.release()
        return True

    def wait(self, seconds: float | None) -> bool:
        """Block the thread: see ``Waiter``."""
        return self._lock.acquire(timeout=-1.0 if seconds is None else min(seconds, threading.TIMEOUT_MAX))

    expect = wait


class Queue(Generic[T]):
    """Idle items, free slots and waiters of one pool in one process.

    Args:
        keep: how many idle items to keep; None for as many as there are.
        capacity: how many slots there are; None for no limit.
        use_lifo: hand out the item that came back last, rather than the one that has been idle longest.
        waiter: how those in line wait. All else is the same for threads and for tasks.

    """

    __slots__ = (
        "_free",
        "_taken",
        "capacity",
        "idle",
        "keep",
        "most",
        "pop_idle",
        "use_lifo",
        "wait_seconds",
        "waiter",
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
    #: The ids of the slots in use: a set, because adding and discarding are atomic and counting with ``+= 1`` is not.
    _taken: set[int]
    #: Takes an idle item or raises IndexError: what a checkout does when nothing stands in its way.
    pop_idle: Callable[[], T]

    def __init__(
        self,
        keep: int | None,
        capacity: int | None,
        *,
        use_lifo: bool = False,
        waiter: Callable[[], Waiter[T]] = ThreadWaiter,
    ) -> None:
        self.keep = keep
        self.waiter = waiter
        self.most = sys.maxsize if keep is None else keep
        self.capacity = capacity
        self.use_lifo = use_lifo
        self.idle = deque()
        self.waiters = deque()
        self.waits = 0
        self.wait_seconds = 0.0
        self._taken = set()
        self._free = deque(Slot(self, taken=False) for _ in range(capacity or 0))  # type: ignore[arg-type]
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
        if self.waiters:
            self._serve()
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
        if self.waiters:
            self._serve()
        return None

    def fresh(self) -> Queue[T]:
        """Return a queue with the same settings and nothing in it."""
        return type(self)(self.keep, self.capacity, use_lifo=self.use_lifo, waiter=self.waiter)

    def _take_slot(self) -> Slot | None:
        if self.capacity is None:
            return Slot(self, taken=True)  # type: ignore[arg-type]
        try:
            return self._free.pop().take()
        except IndexError:
            return None

    def _slot_is_free(self, slot: Slot) -> None:
        if self.capacity is not None:
            self._free.append(slot)
            if self.waiters:
                self._serve()

    def _serve(self) -> None:
        """Match the line with what is available, until one of them is empty."""
        given: T | Slot | None = None
        while True:
            try:
                waiter = self.waiters.popleft()
            except IndexError:
                if given is not None:  # meant for one who is no longer there
                    self._put_back(given)
                return
            if given is None:
                try:
                    given = self.pop_idle()
                except IndexError:
                    given = self._take_slot()
            if given is not None:
                if waiter.serve(given):
                    given = None
                continue
            # Back to the head of the line; and since it was not in line for a moment, look again.
            self.waiters.appendleft(waiter)
            if not self.idle and not self._free:
                return

    def _wait(self, timeout: float | None) -> T | Slot | None:
        waiter = self.waiter()
        started = time.monotonic()
        deadline = None if timeout is None else started + timeout
        try:
            self.waiters.append(waiter)
            self._serve()
            remaining = None if timeout is None else max(0.0, timeout)
            while not waiter.wait(remaining):
                assert deadline is not None  # noqa: S101 - waiting for ever does not time out
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    self._leave(waiter)
                    break
        except BaseException:  # an interrupt: whatever was handed over meanwhile goes to the next in line
            self._leave(waiter)
            if waiter.given is not None:
                self._put_back(waiter.given)
                if self.waiters:
                    self._serve()
            raise
        finally:
            self.waits += 1
            self.wait_seconds += time.monotonic() - started
        return waiter.given

    def _leave(self, waiter: Waiter[T]) -> None:
        """Step out of the line, unless somebody is just serving us: then take what comes."""
        for _ in range(2):
            try:
                self.waiters.remove(waiter)
            except ValueError:
                # Another thread has taken us out of the line. It is about to hand something over, or to put us back.
                if waiter.expect(_HAND_OVER):
                    return
            else:
                return

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
