"""What pidpool uses of SQLAlchemy (and of ``logging``) that it does not promise. The rest of this room takes it here.

Checked against SQLAlchemy 2.0.58 and 2.1.9. ``tests/pool/test_private_names.py`` looks at each of
these names and says what is missing when one has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import Pool, PoolResetState
from sqlalchemy.pool.base import (
    ConnectionPoolEntry,
    PoolProxiedConnection,
    _ConnDialect,
    _ConnectionFairy,
    _ConnectionRecord,
    reset_commit,
    reset_rollback,
)
from sqlalchemy.util import await_only

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "PRIVATE_ATTRIBUTES",
    "ConnectionPoolEntry",
    "DefaultDialect",
    "Pool",
    "PoolProxiedConnection",
    "PoolResetState",
    "PoolTimeoutError",
    "_ConnDialect",
    "_ConnectionFairy",
    "_ConnectionRecord",
    "await_only",
    "forget_event_locks",
    "guard_begin",
    "known_levels",
    "listeners",
    "reset_commit",
    "reset_rollback",
    "rolls_back_plainly",
    "streams_adapted",
]

#: The private attributes and methods that this room reads, sets or overrides, by the class that has them.
PRIVATE_ATTRIBUTES: Final = {
    "Pool": (
        "_close_connection",
        "_create_connection",
        "_creator",
        "_dialect",
        "_do_get",
        "_do_return_conn",
        "_invalidate",
        "_invalidate_time",
        "_invoke_creator",
        "_orig_logging_name",
        "_pre_ping",
        "_recycle",
        "_reset_on_return",
        "_return_conn",
        "_should_log_debug",
        "_should_wrap_creator",
    ),
    "_ConnectionRecord": ("_checkin_failed", "_soft_invalidate_time", "fairy_ref", "finalize_callback", "starttime"),
    "_ConnectionFairy": (
        "_checkin",
        "_checkout",
        "_close_special",
        "_connection_record",
        "_counter",
        "_echo",
        "_pool",
        "_reset",
    ),
    "_CompoundListener": ("_exec_once_mutex", "listeners", "parent_listeners"),
}


def rolls_back_plainly(dialect: Any) -> bool:  # noqa: ANN401 - a Dialect, or the stand-in of a plain DB-API pool
    """Tell whether the dialect's ``do_rollback`` is the stock one, which only calls the connection's ``rollback``."""
    if getattr(dialect, "skip_autocommit_rollback", False):  # since 2.0.43; the stock one looks at the connection then
        return False
    return type(dialect).do_rollback in (DefaultDialect.do_rollback, _ConnDialect.do_rollback)


def streams_adapted(cursor: Any) -> bool:  # noqa: ANN401 - an adapter for a cursor of asyncio's
    """Tell whether an asyncio cursor reads its rows from the server as they are asked for."""
    # SQLAlchemy 2.0 marks some of its adapters by their name alone.
    return bool(getattr(cursor, "server_side", False)) or type(cursor).__name__.endswith("_ss_cursor")


def listeners(pool: Pool, event: str) -> tuple[Sequence[object], Sequence[object]]:
    """Return the listeners to an event of this pool, and those to the event of its class: both live, both may be kept.

    The first is SQLAlchemy's own list, made before there is anybody to put in, so that it need not be replaced then.
    """
    collection: Any = getattr(pool.dispatch, event).for_modify(pool.dispatch)
    return collection.listeners, collection.parent_listeners


def known_levels(logger: Any) -> Mapping[int, bool]:  # noqa: ANN401 - a Logger, or SQLAlchemy's own
    """Return the answers of ``logger.isEnabledFor`` that the logger has at hand: live, and empty when levels change.

    SQLAlchemy asks at every checkout. ``logging.Logger`` has kept its answers in this dict since Python 3.7; where
    there is none (with ``echo``), there is no answer, and one asks.
    """
    levels: Mapping[int, bool] = getattr(logger, "_cache", {})
    return levels


def forget_event_locks(pool: Pool) -> None:
    """Give the pool's events fresh mutexes: one that a thread held in the parent is locked for ever in the child.

    SQLAlchemy holds a mutex around the first ``connect`` event of a pool, while the dialect asks the server about
    itself.
    """
    for event in (pool.dispatch.connect, pool.dispatch.first_connect):
        if getattr(event, "_exec_once_mutex", None) is not None:
            if hasattr(event, "_memoized_attr__exec_once_mutex"):  # 2.0.0: made when it is missed
                del event._exec_once_mutex
            else:
                event._exec_once_mutex = None  # type: ignore[attr-defined]


def guard_begin(dialect: Any, check: Callable[[Any], None]) -> None:  # noqa: ANN401 - see above
    """Have ``check(connection)`` called before the dialect begins a transaction.

    ``Connection.begin()`` touches nothing of a connection: DB-APIs begin by themselves, and the stock ``do_begin`` is
    empty.
    """
    begin = getattr(dialect, "do_begin", None)
    if begin is None or getattr(begin, "_guarded_by_pidpool", False):
        return

    def do_begin(dbapi_connection: Any) -> None:  # noqa: ANN401 - see above
        check(dbapi_connection)
        begin(dbapi_connection)

    do_begin._guarded_by_pidpool = True  # type: ignore[attr-defined]
    dialect.do_begin = do_begin
