"""pg8000: a Python socket, wrapped by ``ssl`` or not.

Deallocation is silent, except that it flushes what an interrupted write left in the buffer.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver(
    "pg8000",
    fileno=lambda connection: int(connection._usock.fileno()),
    idle=lambda connection: not connection._in_transaction,
    streams=lambda _cursor: True,  # SQLAlchemy makes a server-side cursor out of any, by DECLARE, FETCH and CLOSE
)
