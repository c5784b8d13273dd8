"""psycopg2: libpq's socket.

Deallocation compares the PID and is silent in a child; ``close()`` compares nothing and says goodbye.
"""

from __future__ import annotations

from pidpool.drivers import Driver

_STATUS_READY = 1

# Its own note of the transaction, not the server's: ``rollback`` looks at the same one, and does nothing when it says
# so. Where the two differ (COMMIT sent as plain SQL), only a real ``rollback`` makes them agree again. On a closed
# connection the note stays as it was, while ``rollback`` raises, by which the pool learns of it.
DRIVER = Driver(
    "psycopg2",
    fileno=lambda connection: int(connection.fileno()),
    idle=lambda connection: bool(connection.status == _STATUS_READY and not connection.closed),
    streams=lambda cursor: cursor.name is not None,
)
