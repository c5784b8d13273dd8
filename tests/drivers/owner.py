"""The process that owns a connection, and can tell from the server and from the wire whether it still does."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.pool import NullPool

from pidpool import drivers
from pidpool._discard import Appeared, Ownership
from pidpool.hazards.proxy import RecordingProxy
from pidpool.hazards.target import at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.pool import Pool


class Owner:
    """Connects through a recording proxy, which ends with the script: a child must not close it on its way out.

    Parameters:
        server: what the fixture of that name gave, as JSON.
    """

    def __init__(self, server: str) -> None:
        described = json.loads(server)
        self._direct = make_url(described["url"])
        self._connect_args = described["connect_args"]
        assert self._direct.host is not None
        assert self._direct.port is not None
        self.host, self.port = self._direct.host, self._direct.port
        self.driver = self._direct.get_driver_name()
        self.mysql = self._direct.get_backend_name() == "mysql"
        self.tls: bool = described["tls"]
        self._proxy = RecordingProxy(self.host, self.port)
        self._url = at(self._direct, self._proxy.host, self._proxy.port)
        self._table = f"t{secrets.token_hex(8)}"
        self.observe(f"CREATE TABLE {self._table} (number INT)")
        self.session = 0
        #: Of the connections whose driver hides the socket: `discard()` alone could only pin those.
        self._ownerships: list[Ownership] = []

    def engine(self, poolclass: type[Pool], **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own
        return create_engine(self._url, connect_args=self._connect_args, poolclass=poolclass, **options)

    def connect(self, *, direct: bool = False) -> Any:  # noqa: ANN401 - any driver's connection
        """Return a connection of the driver's; `direct`: past the proxy."""
        url = self._direct if direct else self._url
        dialect = create_engine(url, poolclass=NullPool).dialect
        positional, named = dialect.create_connect_args(url)
        appeared = Appeared()
        connection = dialect.connect(*positional, **{**named, **self._connect_args})
        if drivers.of(connection).opens_a_socket:
            self._ownerships.append(Ownership(connection, appeared=appeared))
        return connection

    def descriptor(self, connection: Any) -> int:  # noqa: ANN401 - as above
        """Return the descriptor that pidpool knows of a connection of ours; may raise for one that is closed."""
        fileno = drivers.of(connection).fileno
        known = fileno(connection) if fileno else None
        if known is None:
            [known] = [each._descriptor for each in self._ownerships if each.connection is connection]
        return known

    def disown(self) -> None:
        """Forget to whom the connections belong, as if pidpool had never seen them."""
        self._ownerships.clear()

    def session_id(self, connection: Any) -> int:  # noqa: ANN401 - any driver's connection, or SQLAlchemy's
        return int(query(connection, "SELECT connection_id()" if self.mysql else "SELECT pg_backend_pid()")[0][0])

    def begin(self, connection: Any) -> None:  # noqa: ANN401 - as above
        """Store a row in a transaction that stays open."""
        query(connection, f"INSERT INTO {self._table} VALUES (1)")
        self.session = self.session_id(connection)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Fail if the block says anything on a connection that was open before it."""
        with silence(self._proxy):
            yield

    def client_bytes(self) -> int:
        """Return how much has been said so far, on all connections."""
        return sum(traffic.client_bytes for traffic in self._proxy.snapshot().values())

    def finish(self, connection: Any) -> None:  # noqa: ANN401 - as above
        """Commit, and fail unless the session is the one that began and its row is stored."""
        assert self.session_id(connection) == self.session
        connection.commit()
        assert self.observe(f"SELECT number FROM {self._table}") == [(1,)]

    def has_lost(self, connection: Any) -> bool:  # noqa: ANN401 - as above
        """Tell whether the owner cannot finish."""
        try:
            self.finish(connection)
        except Exception:  # noqa: BLE001 - each driver says it in a way of its own
            return True
        return False

    def observe(self, statement: str) -> list[Any]:
        """Execute a statement on a connection of its own, past the proxy."""
        engine = create_engine(self._direct, connect_args=self._connect_args, poolclass=NullPool)
        with engine.begin() as connection:
            return query(connection, statement)


@contextmanager
def silence(proxy: RecordingProxy) -> Iterator[None]:
    """Fail if the block says anything through the proxy on a connection that was open before it."""
    before = proxy.snapshot()
    yield
    after = proxy.snapshot()
    living = {number: was for number, was in before.items() if not was.client_ended}
    for number, was in living.items():
        now = after[number]
        assert now.client_bytes == was.client_bytes, f"{now.client_bytes - was.client_bytes} bytes were sent"
        assert not now.client_ended, "the stream was ended"
        assert not now.server_ended, "the server has ended the session"


def query(connection: Any, statement: str) -> list[Any]:  # noqa: ANN401 - as above
    """Execute a statement and return its rows as tuples."""
    if isinstance(connection, Connection):
        result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []
    cursor = connection.cursor()
    cursor.execute(statement)
    rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    cursor.close()
    return rows
