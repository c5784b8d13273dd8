"""The record (a place in the pool, with its connection) and the fairy (one checkout of it).

Both keep SQLAlchemy's names and behaviour, and add the two questions that make a pool safe across fork: *is this
process the one that opened the connection?* (the record's ``ownership``), and *is it the one that checked it out?* (one
byte, ``fairy._life.page[0]``, asked before anything that could reach the server).

Where SQLAlchemy hangs a weakref finalizer on each checkout, the fairy has a ``__del__``: it costs less, and it
runs before the connection's own finalizer. That matters inside ``os.fork()``, where CPython frees the thread-locals of
the parent's other threads before any at-fork hook.
"""

from __future__ import annotations

import random
import time
from threading import get_ident
from typing import TYPE_CHECKING, Any

from sqlalchemy import util
from sqlalchemy.exc import DontWrapMixin

from pidpool import _fork, _opening, _sqlite
from pidpool.errors import InheritedConnectionError
from pidpool.pool._cursor import GuardedCursor
from pidpool.pool._sqlalchemy import _ConnectionFairy, _ConnectionRecord, streams_adapted
from pidpool.pool._upkeep import has_something_to_say

if TYPE_CHECKING:
    from collections.abc import Callable

    from pidpool._discard import Appeared, Ownership
    from pidpool.drivers import Driver
    from pidpool.pool._base import ForkSafePool, Life
    from pidpool.pool._queue import Slot


class _NotWrappedError(InheritedConnectionError, DontWrapMixin):
    """What SQLAlchemy lets through as it is, instead of wrapping it in a StatementError."""


# People catch, log and read the public name.
_NotWrappedError.__name__ = InheritedConnectionError.__name__
_NotWrappedError.__qualname__ = InheritedConnectionError.__qualname__
_NotWrappedError.__module__ = InheritedConnectionError.__module__


class Record(_ConnectionRecord):
    """A place in the pool. Belongs to the process that made it, as its connection and its queue do."""

    __slots__ = ("_slot", "came_back", "driver", "echo", "is_idle", "life", "luck", "ownership", "ready", "ticket")

    #: The pool's life in the process that made this record; its queue is where the record goes back to.
    life: Life
    #: Whether there is a connection that nobody has invalidated: what a checkout asks first.
    ready: bool

    #: What is known of the driver, and its way of telling that no transaction is open. Set with ``ownership``.
    driver: Driver
    is_idle: Callable[[Any], bool] | None
    #: When it was last given back (``time.monotonic()``); only kept where somebody asks.
    came_back: float
    #: Who owns ``dbapi_connection``. Set as soon as the driver has opened it; None when there is no connection.
    ownership: Ownership | None
    #: From 0 to 1: how much of ``recycle_jitter`` falls to this connection.
    luck: float
    #: Whether the pool's log is to hear of this checkout.
    echo: bool
    #: Which of the pool's checkouts this record is out for, else 0. A fairy whose ticket it is not has nothing to give
    #: back: the record was taken from it, or belongs to somebody else by now.
    ticket: int

    def __init__(self, pool: ForkSafePool, life: Life, slot: Slot) -> None:
        self.life = life
        self.ready = True
        self._slot = slot
        self.ownership = None
        self.came_back = self.luck = 0.0
        self.ticket = 0
        self.echo = False
        super().__init__(pool)  # connects

    def own(self, driver_connection: object, appeared: Appeared | None = None) -> None:
        """Note to whom the connection belongs that has just been opened; nobody, if it had to be closed again."""
        # Whoever began to open it owns it, should somebody have forked meanwhile, in a do_connect event.
        pool = self.life.pool
        self.ownership = _opening.own(
            driver_connection, self.life.generation, pool._opener, appeared=appeared, dialect=pool.dialect_name
        )
        if self.ownership is None:
            return
        self.driver = self.ownership.driver
        self.is_idle = self.driver.idle
        self.luck = random.random()  # noqa: S311 - to spread reconnects, not secrets

    def abort(self) -> bool:
        """Close an asyncio connection without awaiting; return whether the driver has a way to do so."""
        return False

    @property
    def inherited(self) -> bool:
        """Whether an ancestor of this process opened the connection."""
        return self.ownership is not None and not self.ownership.generation.page[0]

    @property
    def in_use(self) -> bool:
        """Whether the connection is checked out."""
        return self.ticket != 0

    def checkin(self, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's signature
        """Run what is due when a checkout ends, and give the record back."""
        life = self.life
        if self.ticket == 0 and _fairy_was_created:
            super().checkin(_fairy_was_created)  # warns about the second checkin
            return
        # In this order: interrupted in between, nobody holds the record any more, and its slot goes back by itself.
        life.out.pop(self, None)
        self.ticket = 0
        while self.finalize_callback:
            callback = self.finalize_callback.pop()
            if self.dbapi_connection is not None:
                callback(self.dbapi_connection)
        if life.checkin_listeners or life.checkin_listeners_of_all:
            life.pool.dispatch.checkin(self.dbapi_connection, self)
        if life.attentive:
            life.pool.look_after(self)
        # The record knows its queue, so one that was inherited cannot come back into the wrong process's pool.
        surplus = life.queue.give(self)
        if surplus is not None:
            surplus.retire()

    def close(self) -> None:
        """Close the connection, if it is this process's own."""
        if self.inherited:
            _fork.current()
            return
        if isinstance(self.ownership, _sqlite.Handle):
            self.ownership.will_close()
        super().close()
        self.ready = False
        self.ownership = None

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:  # noqa: FBT001, FBT002 - as above
        """Drop the connection as broken, if it is this process's own."""
        if self.inherited:
            _fork.current()
            return
        self.ready = False
        if self.dbapi_connection is not None:
            self.life.invalidations += 1
        if isinstance(self.ownership, _sqlite.Handle) and not soft:
            self.ownership.will_close()
        super().invalidate(e, soft)
        if self.dbapi_connection is None:
            self.ownership = None

    def get_connection(self) -> Any:  # noqa: ANN401 - any driver's
        """Return the connection: a new one where there is none, or where it is too old or was invalidated."""
        if isinstance(self.ownership, _sqlite.Handle):
            self.ownership.thread = get_ident()
        if self.dbapi_connection is not None and self.life.pool.is_due(self):
            self._soft_invalidate_time = time.time()
        connection = super().get_connection()
        self.ready = True
        return connection

    def answers(self) -> bool:
        """Tell, by a look at the socket, whether a pre-ping can be left out."""
        if self.ownership is None or self.ownership.driver.fileno is None:
            return False
        try:
            descriptor = self.ownership.driver.fileno(self.ownership.connection)
            return descriptor is not None and not has_something_to_say(descriptor)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the ping will find out
            return False

    def leave(self) -> None:
        """Close the connection without awaiting anything."""
        self.close()

    def retire(self, *, awaiting: bool = True) -> None:
        """Close the connection, and make room for another.

        Args:
            awaiting: whether an asyncio connection may be awaited: not when a hook of ``os.fork()`` calls this.

        """
        try:
            if awaiting:
                self.close()
            else:
                self.leave()
        finally:
            self._slot.give_back()


class Fairy(_ConnectionFairy):
    """One checkout of a connection.

    In a process that did not check it out, everything that would use the connection raises
    ``InheritedConnectionError``, and everything that would give it back does nothing.
    """

    __slots__ = ("_connection", "_life", "_ownership", "_ticket")

    #: The driver's connection; None once it is given back. ``dbapi_connection`` is the guarded way to it.
    _connection: Any
    #: The pool's life in the process that checked this connection out.
    _life: Life
    #: The number of this checkout; None while it is being given back.
    _ticket: int | None
    #: Set when the connection is detached; until then the record has it.
    _ownership: Ownership

    #: SQLAlchemy's own would register a weakref finalizer; ``ForkSafePool.connect`` fills the slots in.
    __init__: Callable[[Fairy], None] = object.__init__

    @property
    def _echo(self) -> bool:  # type: ignore[override]
        record: Any = self._connection_record
        return self._life.pool._should_log_debug() if record is None else record.echo

    @property
    def _pool(self) -> ForkSafePool:  # type: ignore[override]
        return self._life.pool

    def __del__(self) -> None:
        record: Any = self._connection_record
        if record is None:
            return  # given back, or detached
        try:
            if not self._life.page[0]:
                _fork.current()
            elif record.ticket == self._ticket and record in self._life.out:  # forgotten, or left half closed
                self._connection = record.dbapi_connection  # None if the record was invalidated behind our back
                if self._life.is_async and self._connection is not None:
                    self._drop_forgotten(record)
                else:
                    self.close()
        except BaseException:  # an interrupt, which Python only prints here: drop the record, and thereby its slot
            if record.ticket == self._ticket:
                self._life.out.pop(record, None)
            raise

    # -- using it ------------------------------------------------------------------------------------------------

    def refuse_if_inherited(self) -> None:
        """Raise InheritedConnectionError in a process that did not check this connection out."""
        if not self._life.page[0]:
            here = _fork.current()  # discards it, if no hook did
            raise _NotWrappedError(self._life.pid, here.pid)

    @property
    def dbapi_connection(self) -> Any:  # noqa: ANN401 - any driver's
        """The driver's connection."""
        if not self._life.page[0]:
            self.refuse_if_inherited()
        return self._connection

    @dbapi_connection.setter
    def dbapi_connection(self, connection: Any) -> None:  # noqa: ANN401 - any driver's
        # SQLAlchemy sets it when it has reconnected on checkout, and to None when it gives it back.
        self._connection = connection

    @property
    def driver_connection(self) -> Any:  # type: ignore[override]  # noqa: ANN401 - any driver's
        """The driver's connection; for an asyncio dialect, what its adapter wraps."""
        if not self._life.page[0]:
            self.refuse_if_inherited()
        return super().driver_connection

    def cursor(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the driver's signature
        """Return a new cursor of the driver's; one that streams, with a guard."""
        if not self._life.page[0]:
            self.refuse_if_inherited()
        cursor = self._connection.cursor(*args, **kwargs)
        record: Any = self._connection_record
        driver = self._ownership.driver if record is None else record.driver
        streams = streams_adapted if self._life.is_async else driver.streams
        if streams is not None and streams(cursor):
            return GuardedCursor(cursor, self._life.page, self.refuse_if_inherited)
        return cursor

    def commit(self) -> None:
        """Commit the transaction."""
        if not self._life.page[0]:
            self.refuse_if_inherited()
        self._connection.commit()

    def rollback(self) -> None:
        """Roll back the transaction; nothing in a process that did not check the connection out."""
        if self._life.page[0]:
            self._connection.rollback()
        else:
            _fork.current()

    def __getattr__(self, key: str) -> Any:  # noqa: ANN401 - whatever the driver has
        if key in Fairy.__slots__:  # interrupted while it was being made
            raise AttributeError(key)
        if not self._life.page[0]:
            self.refuse_if_inherited()
        return getattr(self._connection, key)

    def __repr__(self) -> str:
        if not self._life.page[0]:
            state = "discarded"
        elif self._connection is None:
            state = "closed"
        else:
            state = "detached" if self._connection_record is None else "checked out"
        driver = type(self._connection).__module__.partition(".")[0]  # its own repr might show how it connected
        return f"<{type(self).__name__} of a {driver} connection, {state}, of pid {self._life.pid}>"

    # -- giving it back ------------------------------------------------------------------------------------------

    @property
    def is_valid(self) -> bool:
        """Whether this still refers to a connection that this process may use."""
        return self._connection is not None and bool(self._life.page[0])

    def close(self, transaction_reset: bool = False) -> None:  # noqa: C901, FBT001, FBT002 - the hot path; SQLAlchemy's signature
        """Give the connection back to the pool; nothing in a process that did not check it out.

        Args:
            transaction_reset: there is no transaction left to roll back.

        """
        # ``self`` is looked at as little as can be: its class has a ``__getattr__``, which keeps CPython 3.11 from
        # specialising the look.
        record: Any = self._connection_record
        ticket = self._ticket
        if record is None or record.ticket != ticket:
            self._close_apart(transaction_reset)
            return
        life = record.life
        if not life.page[0]:
            _fork.current()
            return
        try:
            # Whoever closes it once more meanwhile, in a signal handler or another thread, has no ticket.
            self._ticket = None
            connection = self._connection
            if connection is not None:  # None if it was invalidated
                try:
                    if (
                        record.echo
                        or "do_rollback" in life.reset_by
                        or life.reset_listeners
                        or life.reset_listeners_of_all
                    ):
                        self._reset_carefully(transaction_reset)
                        record.echo = False
                    elif not transaction_reset and (record.is_idle is None or not record.is_idle(connection)):
                        connection.rollback()
                except BaseException as error:
                    life.pool.logger.exception("Exception during reset or similar")
                    if not isinstance(error, Exception):
                        self._connection = self._connection_record = None
                        record._checkin_failed(error)
                        raise
                    record.invalidate(e=error)
            if life.attentive or record.finalize_callback or life.checkin_listeners or life.checkin_listeners_of_all:
                record.checkin()
            else:
                # What Record.checkin does when there is nothing more to it. CPython looks for signals after calls only,
                # so that no interrupt can come between these three.
                del life.out[record]
                record.ticket = 0
                life.put_idle(record)
                if life.waiters or len(life.idle) > life.most:
                    surplus = life.queue.settle()
                    if surplus is not None:
                        surplus.retire()
            self._connection = self._connection_record = None
        except BaseException:  # an interrupt: closing it again, or its end, does the rest
            self._ticket = ticket
            raise

    _close_special = close

    def _checkin(self, transaction_was_reset: bool = False) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's signature
        self.close(transaction_was_reset)

    def _reset_carefully(self, transaction_was_reset: bool) -> None:  # noqa: FBT001 - as its caller
        pool: Any = self._pool
        if self._echo:  # of the checkout
            pool.logger.debug("Connection %r being returned to pool", self._connection)
        self._reset(pool, transaction_was_reset, terminate_only=False, asyncio_safe=True)

    def _close_apart(self, transaction_was_reset: bool) -> None:  # noqa: FBT001 - as its caller
        """Close what is not checked out: it was given back already, or detached."""
        if not self._life.page[0]:
            _fork.current()
        elif self._connection_record is None and self._connection is not None:
            self._close_detached(transaction_was_reset)
        elif self._ticket is not None:  # the record was taken from us
            self._connection = self._connection_record = None

    def _drop_forgotten(self, record: Record) -> None:
        """Give up an asyncio connection that was never given back: a finalizer cannot await its rollback."""
        pool: Any = self._pool
        connection = self._connection
        can_terminate = bool(pool._dialect.has_terminate)
        try:
            self._reset(pool, transaction_was_reset=False, terminate_only=True, asyncio_safe=False)
            aborted = record.abort()  # first, because detaching hands the record to the next one
            self.detach()
            if pool.dispatch.close_detached:
                pool.dispatch.close_detached(connection)
            if can_terminate and not aborted:
                pool._close_connection(connection, terminate=True)
            can_terminate = can_terminate or aborted
        except Exception:
            pool.logger.exception("Exception during reset or similar")
            if self._connection_record is not None:
                record.invalidate()
                record.checkin()
        finally:
            self._connection = self._connection_record = None
        message = (
            f"A connection of pid {self._life.pid} was forgotten instead of closed, and the garbage collector has "
            f"{'terminated' if can_terminate else 'dropped'} it: {connection!r}. A finalizer cannot await, so call "
            "close() on connections and sessions, or use them in `async with` blocks."
        )
        pool.logger.error(message)
        util.warn(message)

    def _close_detached(self, transaction_was_reset: bool) -> None:  # noqa: FBT001 - as its caller
        pool: Any = self._pool
        connection = self._connection
        try:
            self._reset(pool, transaction_was_reset, terminate_only=True, asyncio_safe=True)
            if pool.dispatch.close_detached:
                pool.dispatch.close_detached(connection)
            dialect = pool._dialect
            pool._close_connection(connection, terminate=dialect.is_async and dialect.has_terminate)
        except BaseException as error:
            pool.logger.exception("Exception during reset or similar")
            if not isinstance(error, Exception):
                raise
        finally:
            self._connection = None

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:  # noqa: FBT001, FBT002 - as above
        """Drop the connection as broken; nothing in a process that did not check it out."""
        if self._life.page[0]:
            super().invalidate(e, soft)
        else:
            _fork.current()

    def detach(self) -> None:
        """Take the connection out of the pool: closing it then really closes it."""
        record: Any = self._connection_record
        if record is None:
            return
        if not self._life.page[0]:
            _fork.current()
            return
        self._life.out.pop(record, None)
        record.ticket = 0
        if self._life.leaks is not None:
            self._life.leaks.came_back(record)  # what is detached is nobody's leak, and the record goes to others
        self._ownership = record.ownership
        record.dbapi_connection = record.ownership = None
        if isinstance(self._ownership, _sqlite.Handle):
            self._ownership.was_detached()
        record.ready = False
        self._pool._do_return_conn(record)
        self.info = self.info.copy()  # type: ignore[misc]
        self._connection_record = None
        if self._pool.dispatch.detach:
            self._pool.dispatch.detach(self._connection, record)
