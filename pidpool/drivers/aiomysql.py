"""aiomysql: the socket of its event loop's transport, plain or under TLS.

Deallocation closes the transport, which takes its socket out of the loop's epoll; see asyncpg.
"""

from __future__ import annotations

from typing import Any

from pidpool._transports import descriptor, hang_up
from pidpool.drivers import Driver

_IN_TRANSACTION = 1
_AUTOCOMMIT = 2


def _idle(connection: Any) -> bool:  # noqa: ANN401 - the driver is not imported here
    """Believe the server's flags only in autocommit: see pymysql, whose protocol this is."""
    if connection._writer is None:
        return False
    if connection.server_status & (_IN_TRANSACTION | _AUTOCOMMIT) != _AUTOCOMMIT:
        return False
    result = connection._result
    return result is None or not (result.unbuffered_active or result.has_next)


def _abort(connection: Any) -> None:  # noqa: ANN401 - see above
    writer = connection._writer
    if writer is None:
        return
    if connection._loop.is_closed():
        hang_up(writer.transport)
        connection._writer = connection._reader = None  # closed, as its finalizer sees it
    else:
        connection.close()


DRIVER = Driver(
    "aiomysql",
    fileno=lambda connection: descriptor(connection._writer.transport),
    idle=_idle,
    abort=_abort,
)
