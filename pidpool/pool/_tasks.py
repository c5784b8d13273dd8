"""What is different where the connections are asyncio's: how one waits, and that a connection belongs to a loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pidpool import _fork, _loops, _sqlite
from pidpool.pool._queue import Queue, Waiter
from pidpool.pool._record import Record
from pidpool.pool._sqlalchemy import await_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from pidpool._discard import Appeared
    from pidpool.pool._base import ForkSafePool, Life
    from pidpool.pool._queue import Slot

T = TypeVar("T")

#: How often a task looks whether another thread has finished handing something over (seconds).
_LOOK_EVERY: Final = 0.0005

_running_loop = asyncio._get_running_loop


class TaskWaiter(Waiter[T]):
    """A task in line: see ``Waiter``. It waits for a future of its event loop."""

    __slots__ = ("_future", "_loop", "_page", "_woken")

    def __init__(self) -> None:
        super().__init__()
        self._woken = False
        self._future: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._page = _fork.current().page

    def wait(self, seconds: float) -> bool:
        """Let other tasks run: see ``Waiter``. A cancellation leaves by an exception."""
        if not self._woken and not self.is_served():
            self._future = self._loop.create_future()
            await_only(asyncio.wait([self._future], timeout=seconds))
        woken, self._woken = self._woken, False
        return woken or self.is_served()

    def expect(self, seconds: float) -> bool:
        """Hold the loop up for a moment: a task that is cancelled, or finalized, cannot await."""
        deadline = time.monotonic() + seconds
        while not self.is_served() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        return self.is_served()

    def wake(self) -> None:
        """Have the task look for itself; never one whose loop is closed, or belongs to another process."""
        if not self._page[0]:
            return
        if _running_loop() is self._loop:
            self._wake()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def hand_over(self, thing: T | Slot) -> bool:
        """Serve the task, unless nothing will ever run it again."""
        if not self._page[0] or self._loop.is_closed():
            return False
        return super().hand_over(thing)

    def _wake(self) -> None:
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class TaskQueue(Queue[T]):
    """A queue in whose line tasks wait.

    What comes back is always put into the hands of the first: tasks take turns anyway, and no switch of threads has to
    be saved.
    """

    __slots__ = ()

    def _waiter(self) -> Waiter[T]:
        return TaskWaiter()

    def look_at_line(self) -> None:
        """Serve those who wait, if any."""
        if self.waiters:
            self._serve()


class AsyncRecord(Record):
    """A place in the pool whose connection belongs to an event loop. In any other loop it gets a new one."""

    __slots__ = ("_home", "_loop", "_ready")

    _ready: bool
    #: Where the connection was opened; None where no loop was running.
    _home: _loops.Home | None
    #: The home's, for one step less.
    _loop: asyncio.AbstractEventLoop | None

    def __init__(self, pool: ForkSafePool, life: Life, slot: Slot) -> None:
        self._home = self._loop = None
        super().__init__(pool, life, slot)

    @property
    def ready(self) -> bool:
        """Whether there is a connection that nobody has invalidated, and this is its loop."""
        return self._ready and self._loop is _running_loop()

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._ready = ready

    def own(self, driver_connection: object, appeared: Appeared | None = None) -> None:
        """Note to whom the connection belongs that has just been opened: to this process, and to this event loop."""
        # First: should it be collected inside a fork, the loop must still be there.
        self._home = _loops.here()
        self._loop = None if self._home is None else self._home.loop
        super().own(driver_connection, appeared)
        if self.ownership is not None and self.driver.idle is not None:
            self.is_idle = _of_adapted(self.driver.idle)

    @property
    def _is_abroad(self) -> bool:
        loop = self._loop
        return self.dbapi_connection is not None and loop is not None and loop is not _running_loop()

    def get_connection(self) -> Any:  # noqa: ANN401 - any driver's
        """Return the connection; a new one where it belongs to another event loop."""
        # Outside of any loop nothing can be opened. Whoever asks there may have what there is.
        if self._is_abroad and _running_loop() is not None:
            self.life.pool.logger.info("Connection %r belongs to another event loop", self.dbapi_connection)
            self.leave()
        return super().get_connection()

    def close(self) -> None:
        """Close the connection, if it is this process's own; without awaiting, if it is another loop's."""
        if self._is_abroad and not self.inherited:
            self.leave()
        else:
            super().close()

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:  # noqa: FBT001, FBT002 - as above
        """Drop the connection as broken, if it is this process's own; without awaiting, if it is another loop's."""
        if self._is_abroad and not soft and not self.inherited:
            self.life.invalidations += 1
            self.life.pool.dispatch.invalidate(self.dbapi_connection, self, e)
            self.leave()
        else:
            super().invalidate(e, soft)

    def leave(self) -> None:
        """Close the connection without awaiting anything: as where its event loop is not this one."""
        self.finalize_callback.clear()
        if self.life.pool.dispatch.close:
            self.life.pool.dispatch.close(self.dbapi_connection, self)
        self.abort()
        self.dbapi_connection = self.ownership = None
        self.ready = False

    def abort(self) -> bool:
        """Close the connection without awaiting; return whether the driver has a way to do so."""
        ownership = self.ownership
        if ownership is None or ownership.driver.abort is None:
            return False
        if isinstance(ownership, _sqlite.Handle):
            ownership.close_if_idle()
        abort = ownership.driver.abort

        def try_to_abort() -> None:
            try:
                abort(ownership.connection)
            except Exception:
                self.life.pool.logger.exception("Exception terminating connection %r", ownership.connection)

        if self._home is None:
            try_to_abort()
        else:
            self._home.run(try_to_abort)
        return True


@functools.cache
def _of_adapted(idle: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Ask the driver's own connection, where the pool has SQLAlchemy's adapter."""
    return lambda adapted: idle(adapted.driver_connection)
