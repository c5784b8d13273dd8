"""sqlite3: a file, not a socket. ``pidpool._sqlite`` says what a fork does to it, and how to let go of it.

Closing an inherited connection can corrupt the database, and so can freeing one of its cursors: a half-read
``INSERT ... RETURNING`` is committed by that. So every cursor is guarded.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver("sqlite3", fileno=None, streams=lambda _cursor: True, sqlite3=lambda connection: connection)
