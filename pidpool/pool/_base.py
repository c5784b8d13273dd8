"""What PidPool and PidNullPool have in common: everything but how many connections they keep."""

from __future__ import annotations

import functools
import os
import time
from logging import DEBUG
from typing import TYPE_CHECKING, Any

from pidpool import _discard, _fork, _opening, _sqlite
from pidpool.pool._leaks import LeakWatch
from pidpool.pool._queue import Slot
from pidpool.pool._record import Fairy, Record
from pidpool.pool._sqlalchemy import (
    Pool,
    PoolTimeoutError,
    _ConnectionFairy,
    forget_event_locks,
    guard_begin,
    known_levels,
    listeners,
    reset_rollback,
    rolls_back_plainly,
)
from pidpool.pool._stats import PoolStats
from pidpool.pool._tasks import AsyncRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence, Sized

    from pidpool.pool._queue import Queue
    from pidpool.pool._sqlalchemy import ConnectionPoolEntry, PoolProxiedConnection
    from pidpool.pool._upkeep import Upkeep


def _itself(connection: Any) -> Any:  # noqa: ANN401 - any asyncio driver's connection, which is not yet awaited
    return connection


def _refuse_to_begin(connection: Any) -> None:  # noqa: ANN401 - what SQLAlchemy passes to do_begin
    if isinstance(connection, Fairy):
        connection.refuse_if_inherited()


class DialectAttribute:
    """``pool._dialect``, which create_engine sets after it has made the pool.

    Args:
        stand_in: what a pool without an engine has.

    """

    def __init__(self, stand_in: object) -> None:
        self._stand_in = stand_in

    def __get__(self, pool: ForkSafePool | None, owner: type[ForkSafePool]) -> Any:  # noqa: ANN401 - see below
        return self._stand_in if pool is None else pool.__dict__.get("_dialect", self._stand_in)

    def __set__(self, pool: ForkSafePool, dialect: Any) -> None:  # noqa: ANN401 - a Dialect, or a plain pool's stand-in
        pool.__dict__["_dialect"] = dialect
        life = pool.__dict__.get("_life")
        if life is not None:
            life.know(pool)
        guard_begin(dialect, _refuse_to_begin)


class Life:
    """A pool's state in one generation of one process. After a fork the pool starts another, in O(1).

    What every checkout and checkin looks at is here, in slots: an attribute of the pool itself costs twice as much.
    """

    __slots__ = (
        "attentive",
        "careful",
        "checkin_listeners",
        "checkin_listeners_of_all",
        "checkout_listeners",
        "checkout_listeners_of_all",
        "checkouts",
        "connect_errors",
        "connects",
        "discards",
        "forks",
        "generation",
        "heir",
        "idle",
        "invalidations",
        "is_async",
        "leaks",
        "levels",
        "most",
        "out",
        "page",
        "pid",
        "pool",
        "pop_idle",
        "put_idle",
        "queue",
        "reset_by",
        "reset_listeners",
        "reset_listeners_of_all",
        "timeouts",
        "waiters",
    )

    pool: ForkSafePool
    #: The generation's, for one step less.
    page: _fork.Page
    pid: int
    #: The queue's.
    pop_idle: Callable[[], Record]
    put_idle: Callable[[Record], None]
    idle: Sized
    waiters: Sized
    most: int
    #: Who listens to events of this pool, and of all pools. Empty, as they nearly always are, they are false at once;
    #: to ask SQLAlchemy's event whether it is true takes ten times as long.
    checkout_listeners: Sequence[object]
    checkout_listeners_of_all: Sequence[object]
    reset_listeners: Sequence[object]
    reset_listeners_of_all: Sequence[object]
    checkin_listeners: Sequence[object]
    checkin_listeners_of_all: Sequence[object]
    #: What the pool's logger has found out about levels; what it has not, it is asked.
    levels: Mapping[int, bool]
    #: The records that are checked out. It keeps them out of the garbage when somebody forgets a fairy in a cycle: the
    #: garbage collector would finalize the driver's connection in the same pass, in whatever order.
    out: dict[Record, None]
    #: Whether a checkout must look at more than whether there is a connection: with ``recycle``, ``pre_ping`` or
    #: ``leak_threshold``, and once the pool has been invalidated.
    careful: bool
    #: Whether a checkin must do more than give the connection back: with ``max_idle``, ``pre_ping_idle`` or
    #: ``leak_threshold``.
    attentive: bool
    #: Has "do_rollback" in it unless reset on return is nothing but the driver's own ``rollback()``: the dialect's own
    #: attributes, because that method may be replaced on the instance at any time.
    reset_by: Container[str]
    #: Whether the connections are asyncio's: they belong to an event loop, and no finalizer may await them.
    is_async: bool
    #: Watches checkouts, with ``leak_threshold``.
    leaks: LeakWatch | None
    #: What ``stats()`` reports. Counted by ``+= 1``, which is exact where there is a global interpreter lock: CPython
    #: switches threads at calls and at loops, not in between.
    checkouts: int
    connects: int
    connect_errors: int
    invalidations: int
    timeouts: int
    #: How many connections this process inherited and discarded in this pool, and from how many ancestors' lives.
    discards: int
    forks: int
    #: The life after this one in the same process. ``dict.setdefault`` decides a race between threads.
    heir: dict[_fork.Generation, Life]

    def __init__(self, pool: ForkSafePool, generation: _fork.Generation, queue: Queue[Record]) -> None:
        upkeep = pool._upkeep
        self.pool = pool
        self.generation = generation
        self.page = generation.page
        self.pid = generation.pid
        self.queue = queue
        self.pop_idle = queue.pop_idle
        self.put_idle = queue.idle.append
        self.idle = queue.idle
        self.waiters = queue.waiters
        self.most = queue.most
        self.checkout_listeners, self.checkout_listeners_of_all = listeners(pool, "checkout")
        self.reset_listeners, self.reset_listeners_of_all = listeners(pool, "reset")
        self.checkin_listeners, self.checkin_listeners_of_all = listeners(pool, "checkin")
        self.levels = known_levels(pool.logger)
        self.out = {}
        self.leaks = None if upkeep.leak_threshold is None else LeakWatch(upkeep.leak_threshold, pool.logger)
        self.careful = pool._recycle > -1 or pool._pre_ping or self.leaks is not None
        self.attentive = (
            upkeep.max_idle is not None or upkeep.pre_ping_idle > 0 or self.leaks is not None or queue.keep == 0
        )
        self.checkouts = self.connects = self.connect_errors = self.invalidations = self.timeouts = 0
        self.discards = self.forks = 0
        self.heir = {}
        self.know(pool)

    def know(self, pool: ForkSafePool) -> None:
        """Note what the pool's dialect does on reset."""
        self.is_async = pool._dialect.is_async
        if pool._reset_on_return is reset_rollback and rolls_back_plainly(pool._dialect):
            self.reset_by = getattr(pool._dialect, "__dict__", ())
        else:
            self.reset_by = ("do_rollback",)


class ForkSafePool(Pool):
    """A pool that is keyed by process.

    The parts: ``_life`` is this process's state, and ``connect`` notices when it is another process's. A ``Record``
    holds a connection together with its ``Ownership``, which discards it in every process that did not open it. A
    ``Fairy`` is one checkout and refuses to work in another process.
    """

    _life: Life
    _upkeep: Upkeep
    #: Stands for this pool where pools are not known.
    _opener: object
    #: Whether to look which socket appears while a connection is opened: as long as its driver is not known.
    _hides_sockets: bool = True
    _dialect = DialectAttribute(Pool._dialect)
    _timeout: float

    def _start(self, queue: Queue[Record], *, timeout: float | None, upkeep: Upkeep) -> None:
        self._timeout = timeout  # type: ignore[assignment]
        self._upkeep = upkeep
        self._opener = object()
        if upkeep.close_before_fork:
            _fork.register_before(self)
        self._life = Life(self, _fork.current(), queue)

    # -- checkout ------------------------------------------------------------------------------------------------

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out.

        Returns:
            The connection, whose ``close()`` checks it in.

        Raises:
            sqlalchemy.exc.TimeoutError: none came free in time.

        """
        life = self._life
        if not life.page[0] or life.pid != os.getpid():
            life = self._after_fork()
        record: Record | None
        try:
            record = life.pop_idle()
        except IndexError:
            record = None
        if record is None:  # not above: what goes wrong in there has nothing to do with an IndexError
            record = self._open_or_wait(life)
        if life.careful or not record.ready:
            try:
                record.get_connection()
            except BaseException as error:
                record._checkin_failed(error, _fairy_was_created=False)
                raise
        # What Fairy.__init__ would do; not calling it is worth a tenth of a checkout.
        fairy: Fairy = Fairy()
        fairy._life = life
        fairy._connection = record.dbapi_connection
        fairy._connection_record = record
        fairy._ticket = record.ticket = life.checkouts = life.checkouts + 1
        life.out[record] = None
        try:
            echo = life.levels[DEBUG]
        except KeyError:
            echo = True  # perhaps
        if echo or life.careful or life.checkout_listeners or life.checkout_listeners_of_all:
            self._check_out_carefully(life, record, fairy)
        return fairy

    def _check_out_carefully(self, life: Life, record: Record, fairy: Fairy) -> None:
        record.echo = self.logger.isEnabledFor(DEBUG)
        if record.echo:
            self.logger.debug("Connection %r checked out from pool", record.dbapi_connection)
        if isinstance(record.ownership, _sqlite.Handle):
            self._look_at_handle(record, fairy)
        if life.leaks is not None:
            life.leaks.went_out(record)
        if (
            self._pre_ping
            and not record.fresh
            and time.monotonic() - record.came_back < self._upkeep.pre_ping_idle
            and record.answers()
        ):
            record.fresh = True  # what SQLAlchemy does not ping
        fairy._counter = 0
        _ConnectionFairy._checkout(self, fairy=fairy)

    def _look_at_handle(self, record: Record, fairy: Fairy) -> None:
        """See, the first time that a SQLite connection is checked out, whether it is safe to use here."""
        try:
            handle: Any = record.ownership
            if not handle.look():
                record.close()
                handle.make_way()
                fairy._connection = record.get_connection()
                handle = record.ownership
                handle.look()
        except BaseException as error:
            fairy._connection = fairy._connection_record = None
            record._checkin_failed(error, _fairy_was_created=True)
            raise

    def _after_fork(self) -> Life:
        """Start this process's own life: an empty pool with its full capacity, whoever held connections at fork.

        The connections themselves have been discarded, at fork or by ``_fork.current()`` just now.
        """
        generation = _fork.current()
        ended = self._life
        old = ended.queue
        fresh = Life(self, generation, old.fresh())
        life = ended.heir.setdefault(generation, fresh)
        if life is fresh:
            forget_event_locks(self)
            life.discards = old.open
            life.forks = ended.forks + 1
            if generation.announced:
                self.logger.info(
                    "Pid %d discarded %d connections that it inherited from pid %d", generation.pid, old.open, ended.pid
                )
        self._life = life
        return life

    def _open_or_wait(self, life: Life) -> Record:
        queue = life.queue
        started = time.monotonic()
        found = queue.take(self._timeout, self._upkeep.max_waiting)
        if found is None:
            life.timeouts += 1
            if life.leaks is not None:
                life.leaks.look()
            raise PoolTimeoutError(self._timeout_message(queue, time.monotonic() - started), code="3o7r")
        if not isinstance(found, Slot):
            return found
        try:
            return (AsyncRecord if life.is_async else Record)(self, life, found)
        except BaseException:
            found.give_back()
            raise

    def _timeout_message(self, queue: Queue[Record], waited: float) -> str:
        size = queue.keep or 0
        limit = self._upkeep.max_waiting
        timeout: float | None = self._timeout  # None: wait for ever, which only max_waiting cuts short
        refused = limit is not None and (timeout is None or waited < timeout)
        why = f"refused because of max_waiting {limit}" if refused else "connection timed out"
        patience = "none" if timeout is None else f"{timeout:0.2f}"
        return (
            f"{type(self).__name__} limit of size {size} overflow {(queue.capacity or 0) - size} reached, {why}, "
            f"timeout {patience}: {queue.open} of {queue.capacity} connections are out, {queue.waiting} "
            f"other {'tasks' if self._life.is_async else 'threads'} wait, waited {waited:0.3f} s. "
            "Close connections sooner, or raise pool_size or max_overflow"
        )

    # -- checkin -------------------------------------------------------------------------------------------------

    def _do_get(self) -> Record:
        life = self._life
        if not life.generation.is_current():
            life = self._after_fork()
        return self._open_or_wait(life)

    def _create_connection(self) -> Record:
        return self._do_get()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        assert isinstance(record, Record)  # noqa: S101 - this pool makes no others
        surplus = record.life.queue.give(record)
        if surplus is not None:
            surplus.retire()

    _return_conn = _do_return_conn

    def dispose(self) -> None:
        """Close what is idle. In a child there is nothing: what it inherited is discarded, not closed."""
        life = self._life
        if not life.generation.is_current():
            life = self._after_fork()
        self._close_idle(life)
        self.logger.info("Pool disposed. %s", self.status())

    def before_fork(self) -> None:
        """Close what is idle in this process, which is about to fork: for ``close_before_fork``."""
        if self._life.generation.is_current():
            self._close_idle(self._life, awaiting=False)

    @staticmethod
    def _close_idle(life: Life, *, awaiting: bool = True) -> None:
        while True:
            try:
                record = life.pop_idle()
            except IndexError:
                return
            record.retire(awaiting=awaiting)

    # -- keeping it healthy --------------------------------------------------------------------------------------

    def is_due(self, record: Record) -> bool:
        """Tell whether ``recycle`` asks for a new connection, a little early by ``recycle_jitter``."""
        early = 1 - self._upkeep.recycle_jitter * record.luck
        return self._recycle > -1 and time.time() - record.starttime > self._recycle * early

    def look_after(self, record: Record) -> None:
        """Do what is due when a connection comes back: note the time, and close another that has been idle too long."""
        life = record.life
        record.came_back = now = time.monotonic()
        if isinstance(record.ownership, _sqlite.Handle):
            record.ownership.thread = 0
        if life.leaks is not None:
            life.leaks.came_back(record)
        max_idle = self._upkeep.max_idle
        if max_idle is not None:
            too_old = life.queue.take_surplus(lambda idle: now - idle.came_back > max_idle, self._upkeep.min_size)
            if too_old is not None:
                self.logger.info("Connection idle for more than %g s; closing", max_idle)
                too_old.retire()

    @property
    def dialect_name(self) -> str:
        """What SQLAlchemy calls the database that its engine is for; empty for a plain pool, whose driver tells."""
        return getattr(self._dialect, "name", "")

    # -- opening and closing -------------------------------------------------------------------------------------

    def _should_wrap_creator(self, creator: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - SQLAlchemy's signature
        open_connection = super()._should_wrap_creator(creator)

        def connect_and_own(record: Any) -> Any:  # noqa: ANN401 - any driver's connection
            record.ownership = None
            life = record.life
            life.connects += 1
            try:
                while record.ownership is None:  # again, if something that was inherited had to be closed first
                    connection = _opening.make_way(self._opener, dialect=self.dialect_name)
                    appeared = _discard.Appeared() if self._hides_sockets else None
                    if connection is None:
                        connection = open_connection(record)
                    elif life.is_async:
                        connection = self._dialect.dbapi.connect(
                            async_creator_fn=functools.partial(_itself, connection)
                        )
                    record.own(self._dialect.get_driver_connection(connection), appeared)
            except BaseException:
                life.connect_errors += 1
                raise
            self._hides_sockets = bool(record.ownership.driver.opens_a_socket)
            if isinstance(record.ownership, _sqlite.Handle):
                life.careful = life.attentive = True  # to note which thread uses it
            return connection

        return connect_and_own

    def _invalidate(
        self,
        connection: PoolProxiedConnection,
        exception: BaseException | None = None,
        _checkin: bool = True,  # noqa: FBT001, FBT002 - SQLAlchemy's signature
    ) -> None:
        # An inherited connection that turns out to be dead says nothing about this process's own.
        if isinstance(connection, Fairy) and not connection._life.page[0]:
            _fork.current()
            return
        self._life.careful = True
        super()._invalidate(connection, exception, _checkin)

    # -- looking at it -------------------------------------------------------------------------------------------

    def _counts(self) -> tuple[int, int, int]:
        """Return how many connections are idle, out, and beyond ``pool_size``, in this process."""
        life = self._life
        if not life.generation.is_current():
            return 0, 0, 0
        idle, total = len(life.queue.idle), life.queue.open
        return idle, total - idle, max(0, total - life.queue.keep) if life.queue.keep else 0

    def status(self) -> str:
        """Describe this process's share: ``pid 4107 gen 1 | 2 idle, 1 out, 0 overflow | 3 discarded at fork``."""
        life = self._life
        here = _fork.current()
        idle, out, overflow = self._counts()
        discarded = life.discards if life.generation is here else life.queue.open
        return (
            f"pid {here.pid} gen {here.number} | {idle} idle, {out} out, {overflow} overflow | "
            f"{discarded} discarded at fork"
        )

    def stats(self) -> PoolStats:
        """Return a snapshot: what the pool has done in this process since the last fork, and how it stands."""
        life = self._life
        if not life.generation.is_current():
            life = self._after_fork()
        if life.leaks is not None:
            life.leaks.look()
        idle, out, overflow = self._counts()
        queue = life.queue
        return PoolStats(
            pid=life.pid,
            forks=life.forks,
            size=queue.keep or 0,
            max_overflow=-1 if queue.capacity is None else queue.capacity - (queue.keep or 0),
            idle=idle,
            out=out,
            overflow=overflow,
            waiting=queue.waiting,
            checkouts=life.checkouts,
            waits=queue.waits,
            wait_seconds=queue.wait_seconds,
            timeouts=life.timeouts,
            connects=life.connects - life.connect_errors,
            connect_errors=life.connect_errors,
            invalidations=life.invalidations,
            discards=life.discards,
            leaks=0 if life.leaks is None else life.leaks.leaks,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status()}>"
