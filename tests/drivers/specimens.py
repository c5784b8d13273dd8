"""One specimen of each client that pidpool knows: how to open it, and how to tell that it is still what it was.

`tests.drivers.owning` runs them, in a process that may be ruined by it. No driver is imported before it is needed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable

Server = Literal["postgresql", "mariadb", "redis", "http", "lines", "forward", "tds", "file", "none"]


@dataclass(frozen=True)
class Place:
    """Where a specimen connects to.

    Parameters:
        folder: for a database that is a file.
        certificate: file with the certificate to trust; with it, the connection is over TLS.
    """

    host: str = ""
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = ""
    folder: str = ""
    certificate: str = ""

    @property
    def context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else None


@dataclass(frozen=True)
class Specimen:
    """A client.

    Parameters:
        client: what the table calls it.
        module: the one in `pidpool.drivers` that describes it.
        package: the distribution that it comes from, for its version; "": Python.
        opener: what opens it, as an entry point; for asyncio, it may have to be awaited.
        arguments: what `opener` takes.
        server: what it connects to; "none": no server of its kind runs here.
        finish: uses it, and returns what `begin` has returned if nothing was lost. Both may be coroutine functions.
        begin: leaves something in it that can be lost; None: what `finish` does leaves enough.
        dialect: for asyncio's database drivers: SQLAlchemy's name.
        in_loop: it is another client that lives in an event loop.
        is_pooled: it is a database connection, which pidpool has a pool for. Else it is a client for `PerProcess`.
        has_tls: it can be measured over TLS.
    """

    client: str
    module: str
    package: str
    opener: str
    arguments: Callable[[Place], dict[str, Any]]
    server: Server
    finish: Callable[[Any, Place], Any]
    begin: Callable[[Any, Place], Any] | None = None
    dialect: str = ""
    in_loop: bool = False
    is_pooled: bool = True
    has_tls: bool = False

    @property
    def is_awaited(self) -> bool:
        return self.in_loop or bool(self.dialect)

    def open(self, place: Place) -> Any:  # noqa: ANN401 - any client, or what must be awaited for it
        module, _, name = self.opener.partition(":")
        opener: Any = importlib.import_module(module)
        for part in name.split("."):
            opener = getattr(opener, part)
        return opener(**self.arguments(place))

    def version(self) -> str:
        """Return its version; raises PackageNotFoundError."""
        return importlib.metadata.version(self.package) if self.package else platform.python_version()


# Asking. What is asked leaves a transaction open, except with drivers that have autocommit.

#: The session, and whether it is over TLS.
_SESSION: Final = {
    "postgresql": "SELECT pid, CASE WHEN ssl THEN 'TLS' ELSE '' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    "mariadb": (
        "SELECT connection_id(), variable_value FROM information_schema.session_status"
        " WHERE variable_name = 'Ssl_cipher'"
    ),
}


def _session(row: Any, place: Place) -> Any:  # noqa: ANN401 - any driver's row
    session, tls = row
    if bool(tls) != bool(place.certificate):
        raise RuntimeError(f"the connection {'is' if tls else 'is not'} over TLS")
    return session


def _asking(server: Server) -> Callable[[Any, Place], Any]:
    def ask(connection: Any, place: Place) -> Any:  # noqa: ANN401 - any driver's connection
        cursor = connection.cursor()
        cursor.execute(_SESSION[server])
        row = cursor.fetchone()
        cursor.close()
        return _session(row, place)

    return ask


async def _await_mariadb(connection: Any, place: Place) -> Any:  # noqa: ANN401 - as above
    async with connection.cursor() as cursor:
        await cursor.execute(_SESSION["mariadb"])
        return _session(await cursor.fetchone(), place)


async def _await_asyncpg(connection: Any, place: Place) -> Any:  # noqa: ANN401 - as above
    return _session(await connection.fetchrow(_SESSION["postgresql"]), place)


async def _await_psycopg(connection: Any, place: Place) -> Any:  # noqa: ANN401 - as above
    return _session(await (await connection.execute(_SESSION["postgresql"])).fetchone(), place)


def _say_yes(connection: Any, _: Place) -> Any:  # noqa: ANN401 - as above
    """Execute something; the stand-in for a server has no sessions to tell apart, but the wire has."""
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    cursor.close()
    return True


def _ask_redis(client: Any, _: Place) -> Any:  # noqa: ANN401 - as above
    return client.client_id()


async def _await_redis(client: Any, _: Place) -> Any:  # noqa: ANN401 - as above
    return await client.client_id()


def _emit(sender: Any, _: Place) -> Any:  # noqa: ANN401 - as above
    return sender.emit("specimen", {"number": 1})


def _get(connection: http.client.HTTPConnection, _: Place) -> Any:  # noqa: ANN401 - as above
    connection.request("GET", "/")
    return connection.getresponse().read()


def _exchange(sock: socket.socket, _: Place) -> Any:  # noqa: ANN401 - as above
    sock.sendall(b"who am I?\n")
    return sock.recv(100)


# Files

_COUNT = "SELECT count(*) FROM rows"


def _path(place: Place) -> str:
    return str(Path(place.folder) / "file.db")


def _count_outside(module: str, path: str) -> int:
    """Return how many rows a fresh process finds: this one's view may differ from what is stored."""
    source = f"import sys, {module}\nprint({module}.connect(sys.argv[1]).execute({_COUNT!r}).fetchone()[0])"
    return int(subprocess.run([sys.executable, "-c", source, path], check=True, capture_output=True).stdout)


def _write_sqlite(connection: Any, _: Place) -> Any:  # noqa: ANN401 - as above
    """Store a row in a transaction that stays open."""
    connection.execute("CREATE TABLE IF NOT EXISTS rows (number INT)")
    connection.execute("INSERT INTO rows VALUES (1)")
    return connection.execute(_COUNT).fetchone()[0]


def _commit_sqlite(connection: Any, place: Place) -> Any:  # noqa: ANN401 - as above
    connection.commit()
    return _count_outside("sqlite3", _path(place))


async def _write_aiosqlite(connection: Any, _: Place) -> Any:  # noqa: ANN401 - as above
    await connection.execute("CREATE TABLE IF NOT EXISTS rows (number INT)")
    await connection.execute("INSERT INTO rows VALUES (1)")
    async with connection.execute(_COUNT) as cursor:
        return (await cursor.fetchone())[0]


async def _commit_aiosqlite(connection: Any, place: Place) -> Any:  # noqa: ANN401 - as above
    await connection.commit()
    return _count_outside("sqlite3", _path(place))


def _write_duckdb(connection: Any, _: Place) -> Any:  # noqa: ANN401 - as above
    """Commit a row, which DuckDB has in its log only."""
    connection.execute("CREATE TABLE IF NOT EXISTS rows (number INT)")
    connection.execute("INSERT INTO rows VALUES (1)")
    return connection.execute(_COUNT).fetchone()[0]


def _commit_duckdb(connection: Any, place: Place) -> Any:  # noqa: ANN401 - as above
    """Commit another row, and count what a crash would leave: file and log, as they are now."""
    connection.execute("INSERT INTO rows VALUES (1)")
    image = Path(place.folder) / "image"
    image.mkdir(exist_ok=True)
    for suffix in ("", ".wal"):
        left = Path(_path(place) + suffix)
        (image / left.name).unlink(missing_ok=True)
        if left.exists():
            shutil.copy(left, image)
    return _count_outside("duckdb", str(image / "file.db")) - 1


# Arguments


def _libpq(place: Place) -> dict[str, Any]:
    tls = {"sslmode": "verify-ca", "sslrootcert": place.certificate} if place.certificate else {"sslmode": "disable"}
    return {**_common(place), "dbname": place.database, **tls}


def _pg8000(place: Place) -> dict[str, Any]:
    return {**_common(place), "database": place.database, "ssl_context": place.context or False}


def _asyncpg(place: Place) -> dict[str, Any]:
    return {**_common(place), "database": place.database, "ssl": place.context or "disable"}


def _pymysql(place: Place) -> dict[str, Any]:
    tls = {"ssl_ca": place.certificate} if place.certificate else {"ssl_disabled": True}
    return {**_common(place), "database": place.database, **tls}


def _mysqlclient(place: Place) -> dict[str, Any]:
    tls = {"ssl": {"ca": place.certificate}} if place.certificate else {"ssl_mode": "DISABLED"}
    return {**_common(place), "database": place.database, **tls}


def _mysql_connector_pure(place: Place) -> dict[str, Any]:
    return {**_pymysql(place), "use_pure": True}


def _mysql_connector_c(place: Place) -> dict[str, Any]:
    # Without the extension, which needs the OpenSSL that it was built for, the package would fall back to the other.
    importlib.import_module("_mysql_connector")
    return {**_pymysql(place), "use_pure": False}


def _aiomysql(place: Place) -> dict[str, Any]:
    return {**_common(place), "db": place.database, "ssl": place.context}


def _odbc_postgresql(place: Place) -> dict[str, Any]:
    tls = {"sslmode": "verify-ca", "pqopt": f"{{sslrootcert={place.certificate}}}"} if place.certificate else {}
    return {**_odbc(place), "driver": "{PostgreSQL Unicode}", **(tls or {"sslmode": "disable"})}


def _odbc_mariadb(place: Place) -> dict[str, Any]:
    tls = {"sslca": place.certificate, "forcetls": "1"} if place.certificate else {}
    return {**_odbc(place), "driver": "{MariaDB Unicode}", **tls}


def _odbc(place: Place) -> dict[str, Any]:
    server = {"server": place.host, "port": str(place.port), "database": place.database}
    return {**server, "uid": place.user, "pwd": place.password}


def _pymssql(place: Place) -> dict[str, Any]:
    plain = {"tds_version": "7.4", "encryption": "off"}
    return {"server": place.host, "port": str(place.port), "user": "u", "password": "p", "database": "", **plain}


def _common(place: Place) -> dict[str, Any]:
    return {"host": place.host, "port": place.port, "user": place.user, "password": place.password}


def _host_and_port(place: Place) -> dict[str, Any]:
    return {"host": place.host, "port": place.port}


def _redis(place: Place) -> dict[str, Any]:
    return {**_host_and_port(place), "socket_timeout": None}  # some versions give up after 5 seconds


def _sender(place: Place) -> dict[str, Any]:
    return {"tag": "pidpool", **_host_and_port(place)}


def _file(place: Place) -> dict[str, Any]:
    return {"database": _path(place)}


def _shared_by_threads(place: Place) -> dict[str, Any]:
    return {**_file(place), "check_same_thread": False}  # as SQLAlchemy opens it


# oracledb, for which no server runs here

#: Whether a finalizer of oracledb's has run in this process.
finalized: list[bool] = []


def _open_nothing() -> Any:  # noqa: ANN401 - an oracledb.Connection
    """Return a connection as oracledb makes it before it connects: all that it has is a finalizer."""
    base: Any = importlib.import_module("oracledb").Connection

    class Connection(base):  # type: ignore[misc]
        def __del__(self) -> None:
            finalized.append(True)
            super().__del__()

    Connection.__module__ = base.__module__
    connection = Connection.__new__(Connection)
    connection._impl = None
    return connection


def _nothing(_: Any, __: Place) -> Any:  # noqa: ANN401 - as above
    return True


def _no_arguments(_: Place) -> dict[str, Any]:
    return {}


# The specimens


_on_postgresql = partial(Specimen, server="postgresql", finish=_asking("postgresql"), has_tls=True)
_on_mariadb = partial(Specimen, server="mariadb", finish=_asking("mariadb"), has_tls=True)
_client = partial(Specimen, is_pooled=False)

_CONNECTOR: Final = ("mysql", "mysql-connector-python", "mysql.connector:connect")
_ODBC: Final = ("pyodbc", "pyodbc", "pyodbc:connect")
_REDIS: Final = ("redis", "redis")

SPECIMENS: Final = (
    _on_postgresql("psycopg 3", "psycopg", "psycopg", "psycopg:connect", _libpq),
    _on_postgresql(
        *("psycopg 3, `AsyncConnection`", "psycopg", "psycopg", "psycopg:AsyncConnection.connect", _libpq),
        finish=_await_psycopg,
        dialect="postgresql+psycopg_async",
    ),
    _on_postgresql("psycopg2", "psycopg2", "psycopg2-binary", "psycopg2:connect", _libpq),
    _on_postgresql("pg8000", "pg8000", "pg8000", "pg8000:connect", _pg8000),
    _on_postgresql(
        *("asyncpg", "asyncpg", "asyncpg", "asyncpg:connect", _asyncpg),
        finish=_await_asyncpg,
        dialect="postgresql+asyncpg",
    ),
    _on_mariadb("PyMySQL", "pymysql", "PyMySQL", "pymysql:connect", _pymysql),
    _on_mariadb("mysqlclient", "mysqldb", "mysqlclient", "MySQLdb:connect", _mysqlclient),
    _on_mariadb("mysql-connector, pure Python", *_CONNECTOR, _mysql_connector_pure),
    _on_mariadb("mysql-connector, C extension", *_CONNECTOR, _mysql_connector_c),
    _on_mariadb(
        *("aiomysql", "aiomysql", "aiomysql", "aiomysql:connect", _aiomysql),
        finish=_await_mariadb,
        dialect="mysql+aiomysql",
    ),
    _on_mariadb(
        *("asyncmy", "asyncmy", "asyncmy", "asyncmy:connect", _aiomysql),
        finish=_await_mariadb,
        dialect="mysql+asyncmy",
    ),
    _on_postgresql("pyodbc, PostgreSQL's ODBC driver", *_ODBC, _odbc_postgresql),
    _on_mariadb("pyodbc, MariaDB's ODBC driver", *_ODBC, _odbc_mariadb),
    Specimen("pymssql", "pymssql", "pymssql", "pymssql:connect", _pymssql, server="tds", finish=_say_yes),
    Specimen(
        *("oracledb, thin", "oracledb", "oracledb", "tests.drivers.specimens:_open_nothing", _no_arguments),
        server="none",
        finish=_nothing,
    ),
    Specimen(
        *("sqlite3", "sqlite3", "", "sqlite3:connect", _file),
        server="file",
        begin=_write_sqlite,
        finish=_commit_sqlite,
    ),
    Specimen(
        *("aiosqlite", "aiosqlite", "aiosqlite", "aiosqlite:connect", _shared_by_threads),
        server="file",
        begin=_write_aiosqlite,
        finish=_commit_aiosqlite,
        dialect="sqlite+aiosqlite",
    ),
    Specimen(
        *("duckdb", "duckdb", "duckdb", "duckdb:connect", _file),
        server="file",
        begin=_write_duckdb,
        finish=_commit_duckdb,
    ),
    _client("redis-py", *_REDIS, "redis:Redis", _redis, server="redis", finish=_ask_redis),
    _client(
        *("redis-py, asyncio", *_REDIS, "redis.asyncio:Redis", _redis),
        server="redis",
        finish=_await_redis,
        in_loop=True,
    ),
    _client(
        *("fluent-logger", "fluent", "fluent-logger", "fluent.sender:FluentSender", _sender),
        server="forward",
        finish=_emit,
    ),
    _client("`http.client`", "http", "", "http.client:HTTPConnection", _host_and_port, server="http", finish=_get),
    _client(
        *("`socket`", "socket", "", "tests.drivers.specimens:_connected", _host_and_port),
        server="lines",
        finish=_exchange,
    ),
)

BY_NAME: Final = {specimen.client: specimen for specimen in SPECIMENS}


def _connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port))
