"""asyncmy: the socket of its event loop's transport, plain or under TLS.

It is compiled, but hides nothing: ``_transport`` since 0.2.13, before that the transport of ``_writer``.

Deallocation: up to 0.2.11 the transport goes, too, which takes its socket out of the loop's epoll (see asyncpg); later
it is silent, except that a half-read result has a finalizer that closes the connection. ``close()`` breaks the parent.

Checked against asyncmy 0.2.9, 0.2.11 and 0.2.18.
"""

from __future__ import annotations

from typing import Any

from pidpool._transports import descriptor, hang_up
from pidpool.drivers import Driver

_IN_TRANSACTION = 1
_AUTOCOMMIT = 2


def _transport(connection: Any) -> Any:  # noqa: ANN401 - the driver is not imported here
    """Return the transport; None once the connection is closed."""
    if hasattr(connection, "_transport"):
        return connection._transport
    writer = connection._writer
    return None if writer is None else writer.transport


def _idle(connection: Any) -> bool:  # noqa: ANN401 - see above
    """Believe the server's flags only in autocommit: see pymysql, whose protocol this is."""
    if _transport(connection) is None or not connection._connected:  # 0.2.9 stays "connected" when it is closed
        return False
    if connection.server_status & (_IN_TRANSACTION | _AUTOCOMMIT) != _AUTOCOMMIT:
        return False
    result = connection._result
    return result is None or not (result.unbuffered_active or result.has_next)


def _abort(connection: Any) -> None:  # noqa: ANN401 - see above
    transport = _transport(connection)
    if transport is None:
        return
    if connection._loop.is_closed():
        hang_up(transport)
        setattr(connection, "_transport" if hasattr(connection, "_transport") else "_writer", None)
        connection._connected = False  # closed, as it says itself
    else:
        connection.close()


DRIVER = Driver(
    "asyncmy",
    fileno=lambda connection: descriptor(_transport(connection)),
    idle=_idle,
    abort=_abort,
)
