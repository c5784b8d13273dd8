"""asyncpg: the socket of its event loop's transport, plain or under TLS.

Deallocation terminates the connection, which takes its socket out of the loop's epoll. A child shares that epoll, and
so its parent would wait for ever; but epoll refuses the dead end that stands in the socket's place.
"""

from __future__ import annotations

import os
from typing import Any

from pidpool._transports import descriptor, hang_up
from pidpool.drivers import Driver


def _cancel_no_query(connection: Any) -> None:  # noqa: ANN401 - the driver is not imported here
    """Let a task that is cancelled here ask the server for nothing, by asking nobody: see ``Driver.disarm``."""
    connection._addr = os.devnull


def _abort(connection: Any) -> None:  # noqa: ANN401 - see above
    if connection._loop.is_closed():
        connection._aborted = True  # what terminate() does first: from here on the connection says that it is closed
        hang_up(connection._transport)
    else:
        connection.terminate()


DRIVER = Driver(
    "asyncpg",
    fileno=lambda connection: descriptor(connection._transport),
    disarm=_cancel_no_query,
    # SQLAlchemy's adapter knows itself, without a round trip, whether there is something to roll back.
    idle=None,
    abort=_abort,
)
