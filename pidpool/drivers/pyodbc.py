"""pyodbc: a handle of the ODBC driver manager's, and behind it any database's own library.

The descriptor is hidden. A connect mostly opens one socket, but none where unixODBC pools (``Pooling=Yes`` and
``CPTimeout`` in its odbcinst.ini, which ``pyodbc.pooling = False`` does not overrule), nor with an ODBC driver for
files. So the one that appeared is only taken for it where no other thread can have opened it; otherwise the connection
is pinned.

unixODBC's pool knows nothing of forks: it hands the parent's connection to a child that connects anew, and no pool
above it can notice. It must be off.

Deallocation says goodbye. Closing or freeing a cursor that had parameters makes the server forget a prepared statement.

It has no note of the transaction: the pool always rolls back.

Checked against pyodbc 5.3 with Debian 12's unixODBC, psqlODBC and MariaDB Connector/ODBC.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver("pyodbc", opens_a_socket="usually", streams=lambda _cursor: True)
