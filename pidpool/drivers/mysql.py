"""MySQL's own driver, mysql-connector-python, whose package is ``mysql``: in Python, or around libmysqlclient.

In Python the socket is at hand. In C it is hidden, but each connect opens just one: see ``opens_a_socket``. Only a C
connection of the driver's own pooling (``pool_name``) may have been open before: pidpool calls it unknown, and pins it.

Deallocation ends the parent's session: that of the C connection says goodbye, that of the Python one calls
``shutdown(2)``.

Its notes of the transaction are those of the last answer that it cared to look at: the pool always rolls back.

Checked against mysql-connector-python 9.1 to 9.7.
"""

from __future__ import annotations

from typing import Any

from pidpool.drivers import Driver, inherits


def _fileno(connection: Any) -> int | None:  # noqa: ANN401 - the driver is not imported here
    if inherits("CMySQLConnection", connection):
        return None
    return int(connection._socket.sock.fileno())


def _streams(cursor: Any) -> bool:  # noqa: ANN401 - see above
    """Take a cursor for one that streams, unless it fetches all its rows at once and prepares nothing.

    To free one was harmless with the versions above. To close one is not: it reads the remaining rows
    (``consume_results``), or has the server forget the prepared statement.
    """
    return not any("Buffered" in ancestor.__name__ for ancestor in type(cursor).__mro__)


DRIVER = Driver("mysql-connector", fileno=_fileno, opens_a_socket=True, streams=_streams)
