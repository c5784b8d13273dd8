"""mysqlclient, whose package is ``MySQLdb``: the socket of libmysqlclient or of MariaDB's connector.

Deallocation says goodbye, wherever it happens: a child that merely exits ends its parent's session.

It has no usable note of the transaction: the pool always rolls back.
"""

from __future__ import annotations

from pidpool.drivers import Driver, inherits

DRIVER = Driver(
    "mysqlclient",
    fileno=lambda connection: int(connection.fileno()),
    streams=lambda cursor: inherits("CursorUseResultMixIn", cursor),
)
