"""aiosqlite: a handle of sqlite3's, and a thread that works for it.

In a child the thread is gone, and nothing that is asked of it is ever answered. The connection is pinned: nobody may
await it, nor free it. Its handle, ``connection._connection``, is what ``pidpool._sqlite`` deals with; SQLAlchemy opens
it so that any thread may use it, unless the database is ``:memory:``.
"""

from __future__ import annotations

from typing import Any

from pidpool.drivers import Driver


def _idle(connection: Any) -> bool:  # noqa: ANN401 - the driver is not imported here
    handle = connection._connection
    return handle is not None and not handle.in_transaction


def _revive(connection: Any) -> Any:  # noqa: ANN401 - see above
    handle = connection._connection
    revived = type(connection)(lambda: handle, connection._iter_chunk_size)
    revived._thread.daemon = True  # as SQLAlchemy has it
    return revived


DRIVER = Driver(
    "aiosqlite",
    fileno=None,
    idle=_idle,
    abort=lambda connection: connection.stop(),  # the thread closes the handle and ends
    sqlite3=lambda connection: connection._connection,
    revive=_revive,
)
