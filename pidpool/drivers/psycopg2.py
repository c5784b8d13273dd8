"""psycopg2: libpq's socket.

Deallocation compares the PID and is silent in a child; ``close()`` compares nothing and says goodbye.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver("psycopg2", fileno=lambda connection: int(connection.fileno()))
