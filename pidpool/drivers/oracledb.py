"""oracledb: thin mode keeps its socket in compiled objects, thick mode in Oracle's client library.

A connection that comes out of oracledb's own pool has been open before, so the socket that appeared while one was
opened is only taken for it where no other thread or task can have opened that; otherwise the connection is pinned.

Deallocation rolls back, logs off, and takes a lock for both.

Unverified against a real Oracle database: checked with oracledb 26.1, for the life-cycle of its objects.
"""

from __future__ import annotations

from pidpool.drivers import Driver

# To free a cursor of thin mode sends nothing by itself: the next request says which ones to close. Thick mode does as
# it likes, so every cursor is guarded.
DRIVER = Driver("oracledb", opens_a_socket="usually", streams=lambda _cursor: True)
