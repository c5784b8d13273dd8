"""duckdb: a database inside the process. ``pidpool._duckdb`` says what a fork does to it, and how to let go of it.

A connection has no descriptor of its own: those of its files are the instance's, which all connections to a file share.
A cursor is another connection, and freeing one that is half read waits for threads that a child does not have.

Its class lives in ``_duckdb``; before duckdb 1.4, in ``duckdb.duckdb``.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver("duckdb", fileno=None, streams=lambda _cursor: True, duckdb=lambda connection: connection)
