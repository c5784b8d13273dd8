"""Where a test's database is, and the SQLAlchemy URL that reaches it with each driver."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from sqlalchemy.engine import URL, make_url

if TYPE_CHECKING:
    from pathlib import Path

Backend = Literal["postgresql", "mysql"]

# Our name of a driver -> SQLAlchemy's name of its dialect.
_DIALECTS: dict[Backend, dict[str, str]] = {
    "postgresql": {
        "psycopg": "postgresql+psycopg",
        "psycopg2": "postgresql+psycopg2",
        "pg8000": "postgresql+pg8000",
    },
    "mysql": {"pymysql": "mysql+pymysql", "mysqlclient": "mysql+mysqldb"},
}

POSTGRESQL_DRIVERS = tuple(_DIALECTS["postgresql"])
MYSQL_DRIVERS = tuple(_DIALECTS["mysql"])
DRIVERS = POSTGRESQL_DRIVERS + MYSQL_DRIVERS

# pg8000 takes its TLS context as a Python object only: no URL can ask for it.
TLS_DRIVERS = ("psycopg", "psycopg2", "pymysql", "mysqlclient")

# Said explicitly, because libpq and PyMySQL turn TLS on by themselves where the server offers it.
_PLAIN = {
    "psycopg": {"sslmode": "disable"},
    "psycopg2": {"sslmode": "disable"},
    "pg8000": {},
    "pymysql": {"ssl_disabled": "true"},
    "mysqlclient": {"ssl_mode": "DISABLED"},
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
            port=parts.port or (5432 if backend == "postgresql" else 3306),
            user=parts.username or "",
            password=str(parts.password or ""),
            database=parts.database or ("postgres" if backend == "postgresql" else "mysql"),
            certificate=certificate,
        )

    def at(self, database: str) -> Address:
        """Return the address of another database on the same server."""
        return replace(self, database=database)

    def url(self, driver: str, *, tls: bool = False) -> str:
        """Return the SQLAlchemy URL, password included, that connects by `driver`; plain unless `tls`."""
        return URL.create(
            _DIALECTS[self.backend][driver],
            username=self.user,
            password=self.password,
            host=self.host,
            port=self.port,
            database=self.database,
            query=self._tls_query(driver) if tls else _PLAIN[driver],
        ).render_as_string(hide_password=False)

    def _tls_query(self, driver: str) -> dict[str, str]:
        if driver not in TLS_DRIVERS:
            raise ValueError(f"no SQLAlchemy URL can ask {driver} for TLS; it works with {TLS_DRIVERS}")
        if self.certificate is None:
            raise ValueError(f"the {self.backend} server at {self.host}:{self.port} has no TLS")
        if self.backend == "postgresql":
            return {"sslmode": "verify-ca", "sslrootcert": str(self.certificate)}
        return {"ssl_ca": str(self.certificate)}
