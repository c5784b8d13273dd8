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
from pidpool.drivers.pymysql import has_no_transaction


def _transport(connection: Any) -> Any:  # noqa: ANN401 - the driver is not imported here
    """Return the transport; None once the connection is closed."""
    if hasattr(connection, "_transport"):
        return connection._transport
    writer = connection._writer
    return None if writer is None else writer.transport


def _idle(connection: Any) -> bool:  # noqa: ANN401 - see above
    # 0.2.9 stays "connected" when it is closed.
    return _transport(connection) is not None and connection._connected and has_no_transaction(connection)


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
