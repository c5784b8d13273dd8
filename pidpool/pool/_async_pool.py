"""AsyncPidPool: AsyncAdaptedQueuePool, keyed by process and by event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.pool import AsyncAdaptedQueuePool

from pidpool.pool._base import DialectAttribute
from pidpool.pool._pid_pool import PidPool
from pidpool.pool._tasks import TaskQueue

if TYPE_CHECKING:
    from pidpool.pool._queue import Queue
    from pidpool.pool._record import Record


class AsyncPidPool(PidPool, AsyncAdaptedQueuePool):
    """Drop-in for ``sqlalchemy.pool.AsyncAdaptedQueuePool`` that survives fork.

    It is ``PidPool`` for ``create_async_engine``: it takes the same arguments and keeps the same promises. Besides:

    - A connection belongs to the event loop in which it was opened. In any other loop a checkout gets a new one, and
      the other is closed without awaiting anything, even if its loop is closed. So one engine serves several loops, one
      after the other.
    - In a child the loops that have or had connections are separated from the parent's: the copy gets an epoll and a
      self-pipe of its own, so that neither using nor closing it can stop the parent's.
    - A connection that is forgotten instead of closed is terminated, with a warning: a finalizer cannot await.
    """

    _sqla_logger_namespace = "sqlalchemy.pool.AsyncPidPool"

    _dialect = DialectAttribute(AsyncAdaptedQueuePool._dialect)
    _queue_of_ours: type[Queue[Record]] = TaskQueue
