"""psycopg 3, with its C, binary and Python implementations: libpq's socket.

Deallocation compares the PID and is silent in a child; ``close()`` compares nothing and says goodbye.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver("psycopg", fileno=lambda connection: int(connection.fileno()))
