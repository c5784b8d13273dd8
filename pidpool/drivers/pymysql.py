"""PyMySQL: a Python socket, wrapped by ``ssl`` or not.

Deallocation closes the descriptor without a goodbye. But an unbuffered result that is half read has a finalizer that
reads the rest, which would be the parent's rows.
"""

from __future__ import annotations

from typing import Any

from pidpool.drivers import Driver, inherits


def _leave_unread(connection: Any) -> None:  # noqa: ANN401 - the driver is not imported here
    """Stop the finalizers of a half-read result from reading on, which would now print an error for each."""
    result = getattr(connection, "_result", None)
    if result is not None and result.unbuffered_active:
        result._finish_unbuffered_query = lambda: None
        result.has_next = False


_IN_TRANSACTION = 1
_AUTOCOMMIT = 2


def has_no_transaction(connection: Any) -> bool:  # noqa: ANN401 - any of the drivers that come from PyMySQL
    """Read the server's flags, and believe them only in autocommit.

    Otherwise they say "no transaction" after ``SELECT ... FOR UPDATE`` and after a failed INSERT, while there is one.
    A closed connection keeps its last ones; ``rollback`` raises then, by which the pool learns of it.
    """
    if connection.server_status & (_IN_TRANSACTION | _AUTOCOMMIT) != _AUTOCOMMIT:
        return False
    result = connection._result  # half read, it still has the flags of before
    return result is None or not (result.unbuffered_active or result.has_next)


def _streams(cursor: Any) -> bool:  # noqa: ANN401 - see above
    return inherits("SSCursor", cursor)


DRIVER = Driver(
    "pymysql",
    fileno=lambda connection: int(connection._sock.fileno()),
    silence=_leave_unread,
    idle=lambda connection: connection._sock is not None and has_no_transaction(connection),
    streams=_streams,
)
