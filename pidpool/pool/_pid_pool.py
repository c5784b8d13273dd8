"""PidPool and PidNullPool: QueuePool and NullPool, keyed by process."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import NullPool, QueuePool

from pidpool.pool._base import ForkSafePool
from pidpool.pool._queue import Passage, Queue
from pidpool.pool._sqlalchemy import Pool
from pidpool.pool._upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Callable

    from pidpool.pool._record import Record


class PidPool(ForkSafePool, QueuePool):
    """Drop-in for ``sqlalchemy.pool.QueuePool`` that survives fork.

    A forked child starts with an empty pool of full capacity. What it inherited is discarded: not a byte is sent on it,
    and the parent's sessions, transactions and results stay as they are. Inherited connections that are still checked
    out raise ``InheritedConnectionError`` when they are used, and do nothing when they are given back.

    Args:
        creator: returns a new DB-API connection. ``create_engine`` passes its own.
        pool_size: how many connections are kept; 0 for no limit.
        max_overflow: how many more may be open at once; -1 for no limit.
        timeout: how long ``connect`` waits for a connection (seconds).
        use_lifo: hand out the connection that came back last, so that the others can be closed for being idle.
        min_size: how many connections ``max_idle`` leaves open.
        max_idle: close a connection that nobody has used for so long (seconds); None for never. One at a time, when
            another comes back.
        max_waiting: refuse a checkout at once when so many threads wait already; None for no limit.
        leak_threshold: warn once, with the stack of the checkout, about a connection that has been out for longer
            (seconds); None for never, which costs nothing. Noticed at the next checkout, checkin or ``stats()``.
        recycle_jitter: recycle a connection by up to this fraction of ``recycle`` early, each by a fraction of its own.
        pre_ping_idle: with ``pre_ping``, trust the socket while a connection has been idle for less than this
            (seconds): the server is asked only when the socket has something to read. That sees a server that hung up,
            not a network that went silent. 0, the default, asks the server every time, as QueuePool does.
        close_before_fork: close idle connections in the parent before each ``os.fork()``, so that a child inherits none
            of them. Rarely needed: it is SQLite's own rule, to the letter (docs/sqlite.md); but a child that is to open
            the same DuckDB file needs it (docs/duckdb.md). A C-level fork goes without.
        **options: those of ``sqlalchemy.pool.Pool``, such as ``recycle`` (seconds), ``pre_ping`` and
        ``reset_on_return``.

    """

    # Below SQLAlchemy's own, so that logging.getLogger("sqlalchemy.pool") reaches it, as its manual says.
    _sqla_logger_namespace = "sqlalchemy.pool.PidPool"

    #: In which those who wait for a connection do so as threads.
    _queue_of_ours: type[Queue[Record]] = Queue

    def __init__(  # noqa: PLR0913, PLR0917 - QueuePool's arguments and ours
        self,
        creator: Callable[..., Any],
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        use_lifo: bool = False,  # noqa: FBT001, FBT002 - QueuePool's signature
        # Not keyword-only: create_engine passes on only what it finds among the positional parameters.
        min_size: int = 0,
        max_idle: float | None = None,
        max_waiting: int | None = None,
        leak_threshold: float | None = None,
        recycle_jitter: float = 0.05,
        pre_ping_idle: float = 0.0,
        close_before_fork: bool = False,  # noqa: FBT001, FBT002 - as above
        **options: Any,  # noqa: ANN401 - Pool's own
    ) -> None:
        if max_overflow < -1:
            raise ValueError(f"max_overflow must be -1, for no limit, or more, and is {max_overflow}")
        # Not QueuePool.__init__: it would make a queue with locks.
        Pool.__init__(self, creator, **options)
        self._max_overflow = -1 if pool_size == 0 else max_overflow
        queue = self._queue_of_ours(
            keep=pool_size if pool_size > 0 else None,
            capacity=None if self._max_overflow == -1 else pool_size + max_overflow,
            use_lifo=use_lifo,
        )
        upkeep = Upkeep(
            min_size, max_idle, max_waiting, leak_threshold, recycle_jitter, pre_ping_idle, close_before_fork
        )
        if 0 < pool_size < min_size:
            raise ValueError(f"min_size must not be more than pool_size, which is {pool_size}, and is {min_size}")
        self._start(queue, timeout=timeout, upkeep=upkeep)

    def recreate(self) -> PidPool:
        """Return a new pool with the same settings."""
        self.logger.info("Pool recreating")
        return self.__class__(
            self._creator,
            pool_size=self.size(),
            max_overflow=self._max_overflow,
            timeout=self._timeout,
            use_lifo=self._life.queue.use_lifo,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            pre_ping=self._pre_ping,
            **asdict(self._upkeep),
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    @property
    def _pool(self) -> Queue[Record]:  # type: ignore[override]
        return self._life.queue

    @property
    def _overflow(self) -> int:  # type: ignore[override]
        return sum(self._counts()[:2]) - self.size()

    def size(self) -> int:
        """Return ``pool_size``."""
        return self._life.queue.keep or 0

    def overflow(self) -> int:
        """Return how many connections are open beyond ``pool_size``; negative while there are fewer."""
        return self._overflow if self.size() else 0

    def checkedin(self) -> int:
        """Return how many connections are idle in this process."""
        return self._counts()[0]

    def checkedout(self) -> int:
        """Return how many connections are checked out in this process."""
        return self._counts()[1]


class PidNullPool(ForkSafePool, NullPool):
    """Drop-in for ``sqlalchemy.pool.NullPool`` that survives fork.

    It keeps no connection. But one that is checked out at fork is inherited all the same, and here it is discarded.

    Args:
        creator: returns a new DB-API connection. ``create_engine`` passes its own.
        **options: those of ``sqlalchemy.pool.Pool``.

    """

    _sqla_logger_namespace = "sqlalchemy.pool.PidNullPool"

    def __init__(self, creator: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401 - Pool's own
        super().__init__(creator, **options)
        self._start(Passage(keep=0, capacity=None), timeout=None, upkeep=Upkeep())
