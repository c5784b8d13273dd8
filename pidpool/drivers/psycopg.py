"""psycopg 3, with its C, binary and Python implementations, and its asyncio connections: libpq's socket.

Deallocation compares the PID and is silent in a child; ``close()`` compares nothing and says goodbye.
"""

from __future__ import annotations

from typing import Any

from pidpool.drivers import Driver, inherits

_PQTRANS_IDLE = 0


def _idle(connection: Any) -> bool:  # noqa: ANN401 - the driver is not imported here
    """Ask libpq, which reads it off every answer; but in pipeline mode answers are still to come.

    A prepared two-phase transaction is none of libpq's, but psycopg refuses ``commit`` until it is finished. It refuses
    ``rollback``, too, and so the pool drops the connection.
    """
    return (
        connection.pgconn.transaction_status == _PQTRANS_IDLE
        and connection._pipeline is None
        and connection._tpc is None
    )


def _streams(cursor: Any) -> bool:  # noqa: ANN401 - see above
    return inherits("ServerCursor", cursor)


async def _cancel_nothing(*_: object, **__: object) -> None:
    pass


def _cancel_no_query(connection: Any) -> None:  # noqa: ANN401 - see above
    """Let a task that is cancelled here ask the server for nothing: see ``Driver.disarm``."""
    if inherits("AsyncConnection", connection):
        connection._try_cancel = _cancel_nothing


DRIVER = Driver(
    "psycopg",
    fileno=lambda connection: int(connection.fileno()),
    disarm=_cancel_no_query,
    idle=_idle,
    streams=_streams,
    abort=lambda connection: connection.pgconn.finish(),  # says goodbye, and needs no event loop
)
