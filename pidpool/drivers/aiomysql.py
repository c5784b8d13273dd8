"""aiomysql: the socket of its event loop's transport, plain or under TLS.

Deallocation closes the transport, which takes its socket out of the loop's epoll; see asyncpg.
"""

from __future__ import annotations

from typing import Any

from pidpool._transports import descriptor, hang_up
from pidpool.drivers import Driver
from pidpool.drivers.pymysql import has_no_transaction


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
    idle=lambda connection: connection._writer is not None and has_no_transaction(connection),
    abort=_abort,
)
