"""Where a test's database is, and the SQLAlchemy URL that reaches it with each driver."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy.engine import URL, make_url

if TYPE_CHECKING:
    from pathlib import Path

Backend = Literal["postgresql", "mysql", "redis"]

# Our name of a driver -> SQLAlchemy's name of its dialect.
_DIALECTS: dict[Backend, dict[str, str]] = {
    "postgresql": {
        "psycopg": "postgresql+psycopg",
        "psycopg2": "postgresql+psycopg2",
        "pg8000": "postgresql+pg8000",
    },
    "mysql": {"pymysql": "mysql+pymysql", "mysqlclient": "mysql+mysqldb"},
    "redis": {"redis": "redis"},  # not SQLAlchemy's, but a URL
}

POSTGRESQL_DRIVERS = tuple(_DIALECTS["postgresql"])
MYSQL_DRIVERS = tuple(_DIALECTS["mysql"])
DRIVERS = POSTGRESQL_DRIVERS + MYSQL_DRIVERS

_ASYNCIO_DIALECTS: dict[Backend, dict[str, str]] = {
    "postgresql": {"asyncpg": "postgresql+asyncpg", "psycopg_async": "postgresql+psycopg_async"},
    "mysql": {"aiomysql": "mysql+aiomysql"},
    "redis": {},
}
_PORTS: dict[Backend, int] = {"postgresql": 5432, "mysql": 3306, "redis": 6379}
_DATABASES: dict[Backend, str] = {"postgresql": "postgres", "mysql": "mysql", "redis": "0"}
ASYNCIO_DRIVERS = tuple(driver for dialects in _ASYNCIO_DIALECTS.values() for driver in dialects)

# The drivers that were added later. They have been through the whole catalogue, by `pidpool audit`; the suite, which is
# to stay quick, has them where it is the driver that makes the difference: in tests/drivers, and in the hazards that
# depend on one. The pools' own tests do without.
_MORE_DIALECTS = {
    "mysqlconnector": "mysql+mysqlconnector",  # its C build
    "mysqlconnector_pure": "mysql+mysqlconnector",
    "pyodbc": "mysql+pyodbc",
    "asyncmy": "mysql+asyncmy",
}
MORE_DRIVERS = ("mysqlconnector", "mysqlconnector_pure", "pyodbc")

MARIADB_DRIVERS = frozenset(MYSQL_DRIVERS) | frozenset(_ASYNCIO_DIALECTS["mysql"]) | frozenset(_MORE_DIALECTS)

# Said explicitly, because libpq, PyMySQL and pg8000 turn TLS on by themselves where the server offers it. No
# URL keeps pg8000 from it: see `connect_args`.
_PLAIN = {
    "psycopg": {"sslmode": "disable"},
    "psycopg2": {"sslmode": "disable"},
    "pg8000": {},
    "pymysql": {"ssl_disabled": "true"},
    "mysqlclient": {"ssl_mode": "DISABLED"},
    "asyncpg": {"ssl": "disable"},
    "psycopg_async": {"sslmode": "disable"},
    "aiomysql": {},
    "mysqlconnector": {"ssl_disabled": "true"},
    "mysqlconnector_pure": {"ssl_disabled": "true"},
    "pyodbc": {},
    "asyncmy": {},
    "redis": {},
}


@dataclass(frozen=True)
class Address:
    """One database on one server.

    Parameters:
        certificate: file with the server's certificate, which is its own authority; None: the server
            has no TLS.
    """

    backend: Backend
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    certificate: Path | None = None

    @classmethod
    def parse(cls, backend: Backend, url: str, certificate: Path | None) -> Address:
        """Read the address of a server of yours from an SQLAlchemy URL."""
        parts = make_url(url)
        return cls(
            backend=backend,
            host=parts.host or "127.0.0.1",
            port=parts.port or _PORTS[backend],
            user=parts.username or "",
            password=str(parts.password or ""),
            database=parts.database or _DATABASES[backend],
            certificate=certificate,
        )

    def at(self, database: str) -> Address:
        """Return the address of another database on the same server."""
        return replace(self, database=database)

    def url(self, driver: str, *, tls: bool = False) -> str:
        """Return the SQLAlchemy URL, password included, that connects by `driver`.

        It insists on TLS with `tls` and is plain without, but for pg8000, which takes what the server
        offers: give `create_engine` the `connect_args` below as well to have that plain.
        """
        return URL.create(
            (_DIALECTS[self.backend] | _ASYNCIO_DIALECTS[self.backend] | _MORE_DIALECTS)[driver],
            username=self.user or None,
            password=self.password or None,
            host=self.host,
            port=self.port,
            database=self.database,
            query=(self._tls_query(driver) if tls else _PLAIN[driver]) | self._always(driver),
        ).render_as_string(hide_password=False)

    def connect_args(self, driver: str, *, tls: bool = False) -> dict[str, Any]:
        """Return what no URL can say: for pg8000, that the connection is to be plain."""
        return {"ssl_context": False} if driver == "pg8000" and not tls else {}

    def _tls_query(self, driver: str) -> dict[str, str]:
        if self.certificate is None:
            raise ValueError(f"the {self.backend} server at {self.host}:{self.port} has no TLS")
        if driver in {"pg8000", "aiomysql", "asyncmy"}:  # no URL has a context: see `connect_args` of the tests
            return {}
        if driver == "asyncpg":
            return {"ssl": "require"}
        if driver == "pyodbc":
            return {"FORCETLS": "1"}
        if self.backend == "postgresql":
            return {"sslmode": "verify-ca", "sslrootcert": str(self.certificate)}
        return {"ssl_ca": str(self.certificate)}

    def _always(self, driver: str) -> dict[str, str]:
        """Return what a URL says whether or not it is to be plain."""
        if driver == "pyodbc":  # the port once more: see `pidpool.hazards.target.at`
            return {"driver": "MariaDB Unicode", "port": str(self.port)}
        # Without the C build the driver would quietly take the other one; so insisted on, it fails.
        pure = {"mysqlconnector": "false", "mysqlconnector_pure": "true"}
        return {"use_pure": pure[driver]} if driver in pure else {}
