"""aiosqlite: a handle of sqlite3's, and a thread that works for it.

In a child the thread is gone, and nothing that is asked of it is ever answered. The connection is pinned: nobody may
await it, nor free it. Its handle, ``connection._connection``, has the file locks of another process.
"""

from __future__ import annotations

from typing import Any

from pidpool.drivers import Driver


def _idle(connection: Any) -> bool:  # noqa: ANN401 - the driver is not imported here
    handle = connection._connection
    return handle is not None and not handle.in_transaction


DRIVER = Driver(
    "aiosqlite",
    fileno=None,
    idle=_idle,
    abort=lambda connection: connection.stop(),  # the thread closes the handle and ends
)
