"""Everything in which PostgreSQL and MySQL or MariaDB differ, in one place.

Statements are complete strings (their only variable parts are names and tokens made here), so that the same
text runs through an SQLAlchemy connection, an ORM session and a driver's raw cursor.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "pg8000": "pg8000",
    "pymysql": "pymysql",
    "mysqlclient": "mysqlclient",
    "asyncpg": "asyncpg",
    "psycopg_async": "psycopg[binary]",
    "aiomysql": "aiomysql",
    "mysqlconnector": "mysql-connector-python",
    "asyncmy": "asyncmy",
    "pyodbc": "pyodbc",
}
"""Driver name -> what `pip install` calls it. These are the drivers that the audit knows."""


class Backend(ABC):
    """One kind of server: the statements that a witness and an observer need.

    Args:
        namespace: the name that all of the audit's own objects carry.
    """

    name: str
    default_port: int
    session_id: str
    version: str
    encrypted: str
    """A query that returns something true when this session runs over TLS."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    @property
    @abstractmethod
    def ledger(self) -> str:
        """The table in which rows are stored, or lost."""

    @property
    @abstractmethod
    def creation(self) -> tuple[str, ...]:
        """Statements that create the audit's own objects."""

    @property
    @abstractmethod
    def removal(self) -> tuple[str, ...]:
        """Statements that remove them again."""

    @abstractmethod
    def alive(self, sessions: Iterable[int]) -> str:
        """Return a query for those of `sessions` which the server still has."""

    @abstractmethod
    def set_variable(self, value: str) -> str:
        """Return a statement that sets a variable of the session."""

    variable: str

    @abstractmethod
    def sleep(self, seconds: float) -> str:
        """Return a query that the server takes so long to answer."""

    @abstractmethod
    def take_lock(self, key: int) -> str:
        """Return a query that takes the advisory lock `key`."""

    @abstractmethod
    def release_lock(self, key: int) -> str:
        """Return a query that releases the advisory lock `key`."""

    @abstractmethod
    def lock_owner(self, key: int) -> str:
        """Return a query for the session that holds the advisory lock `key`."""

    @abstractmethod
    def numbers(self, count: int) -> str:
        """Return a query for the numbers 1 to `count`, each with 200 bytes of ballast."""

    @abstractmethod
    def prepare(self, name: str) -> str:
        """Return a statement that prepares `name`, which adds one to its argument."""

    @abstractmethod
    def execute_prepared(self, name: str, argument: int) -> tuple[str, ...]:
        """Return statements of which the last one executes `name`."""

    def deallocate(self, name: str) -> str:
        """Return a statement that forgets the prepared `name`."""
        return f"DEALLOCATE PREPARE {name}"

    @abstractmethod
    def tls_arguments(self, driver: str) -> dict[str, Any]:
        """Return connect arguments that insist on TLS, without a look at the certificate."""

    @abstractmethod
    def connect_timeout(self, driver: str, seconds: int) -> dict[str, Any]:
        """Return connect arguments that give up after `seconds`."""

    def store(self, token: str) -> str:
        """Return a statement that stores a row."""
        return f"INSERT INTO {self.ledger} (token) VALUES ('{token}')"  # noqa: S608 - a token made here

    def stored(self, token: str) -> str:
        """Return a query for the number of rows stored under `token`."""
        return f"SELECT count(*) FROM {self.ledger} WHERE token = '{token}'"  # noqa: S608 - a token made here

    def create_temporary(self, table: str, token: str) -> str:
        """Return a statement that creates a temporary table with one row."""
        return f"CREATE TEMPORARY TABLE {table} AS SELECT '{token}' AS token"


# ruff: noqa: D102 - what the methods below return is said once, in the class above


class PostgreSQL(Backend):
    """PostgreSQL, through psycopg, psycopg2, pg8000 or asyncpg."""

    name = "postgresql"
    default_port = 5432
    session_id = "SELECT pg_backend_pid()"
    version = "SELECT 'PostgreSQL ' || current_setting('server_version')"
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    variable = "SELECT current_setting('pidpool.witness', true)"

    @property
    def ledger(self) -> str:
        return f"{self.namespace}.ledger"

    @property
    def creation(self) -> tuple[str, ...]:
        return (f"CREATE SCHEMA {self.namespace}", f"CREATE TABLE {self.ledger} (token text NOT NULL)")

    @property
    def removal(self) -> tuple[str, ...]:
        # A session that was killed a moment ago may still hold a lock; for ever would be too long to wait.
        return ("SET lock_timeout = '10s'", f"DROP SCHEMA IF EXISTS {self.namespace} CASCADE")

    def alive(self, sessions: Iterable[int]) -> str:
        numbers = ", ".join(str(int(session)) for session in sessions)
        return f"SELECT pid FROM pg_stat_activity WHERE pid IN ({numbers})"  # noqa: S608 - numbers

    def set_variable(self, value: str) -> str:
        return f"SELECT set_config('pidpool.witness', '{value}', false)"

    def take_lock(self, key: int) -> str:
        return f"SELECT pg_advisory_lock({key})"

    def release_lock(self, key: int) -> str:
        return f"SELECT pg_advisory_unlock({key})"

    def lock_owner(self, key: int) -> str:
        return f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = {key}"  # noqa: S608

    def numbers(self, count: int) -> str:
        return f"SELECT number, repeat('x', 200) FROM generate_series(1, {count}) AS number"  # noqa: S608

    def prepare(self, name: str) -> str:
        return f"PREPARE {name} AS SELECT $1::int + 1"

    def execute_prepared(self, name: str, argument: int) -> tuple[str, ...]:
        return (f"EXECUTE {name}({argument})",)

    def sleep(self, seconds: float) -> str:
        return f"SELECT pg_sleep({seconds})"

    def tls_arguments(self, driver: str) -> dict[str, Any]:
        if driver == "pg8000":
            return {"ssl_context": _lenient_context()}
        if driver == "asyncpg":
            return {"ssl": _lenient_context()}
        return {"sslmode": "require"}

    def connect_timeout(self, driver: str, seconds: int) -> dict[str, Any]:
        return {"timeout" if driver in {"pg8000", "asyncpg"} else "connect_timeout": seconds}


class MySQL(Backend):
    """MySQL and MariaDB, through PyMySQL, mysqlclient, mysql-connector, pyodbc, aiomysql or asyncmy."""

    name = "mysql"
    default_port = 3306
    session_id = "SELECT connection_id()"
    version = (
        "SELECT concat(if(locate('MariaDB', version()), 'MariaDB ', 'MySQL '), replace(version(), '-MariaDB', ''))"
    )
    encrypted = "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'"
    variable = "SELECT @pidpool_witness"

    @property
    def ledger(self) -> str:
        return f"{self.namespace}_ledger"

    @property
    def creation(self) -> tuple[str, ...]:
        return (
            # First what leaves nothing behind, should the second be refused: there is no transaction around them.
            f"CREATE TEMPORARY TABLE {self.namespace}_temporary (token varchar(64))",
            f"CREATE TABLE {self.ledger} (token varchar(64) NOT NULL) ENGINE=InnoDB",
        )

    @property
    def removal(self) -> tuple[str, ...]:
        return ("SET SESSION lock_wait_timeout = 10", f"DROP TABLE IF EXISTS {self.ledger}")

    def alive(self, sessions: Iterable[int]) -> str:
        numbers = ", ".join(str(int(session)) for session in sessions)
        return f"SELECT id FROM information_schema.processlist WHERE id IN ({numbers})"  # noqa: S608 - numbers

    def set_variable(self, value: str) -> str:
        return f"SET @pidpool_witness = '{value}'"

    def take_lock(self, key: int) -> str:
        return f"SELECT get_lock('pidpool_{key}', 0)"

    def release_lock(self, key: int) -> str:
        return f"SELECT release_lock('pidpool_{key}')"

    def lock_owner(self, key: int) -> str:
        return f"SELECT is_used_lock('pidpool_{key}')"

    def numbers(self, count: int) -> str:
        # Neither sequences nor deep recursion are there on every MySQL and MariaDB: digits are.
        digits = "(SELECT 0 AS n" + "".join(f" UNION ALL SELECT {digit}" for digit in range(1, 10)) + ")"
        width = len(str(count))
        value = " + ".join(f"{10**place} * d{place}.n" for place in range(width))
        tables = ", ".join(f"{digits} d{place}" for place in range(width))
        return f"SELECT {value} + 1 AS number, repeat('x', 200) FROM {tables} HAVING number <= {count}"  # noqa: S608

    def sleep(self, seconds: float) -> str:
        return f"SELECT sleep({seconds})"

    def prepare(self, name: str) -> str:
        return f"PREPARE {name} FROM 'SELECT ? + 1'"

    def execute_prepared(self, name: str, argument: int) -> tuple[str, ...]:
        return (f"SET @argument = {argument}", f"EXECUTE {name} USING @argument")

    def tls_arguments(self, driver: str) -> dict[str, Any]:
        if driver == "pymysql":
            return {"ssl": _lenient_context(), "ssl_disabled": False}
        if driver in {"aiomysql", "asyncmy"}:
            return {"ssl": _lenient_context()}
        if driver == "mysqlconnector":
            return {"ssl_disabled": False}  # it then takes TLS where the server has it; the row looks whether it has
        if driver == "pyodbc":
            return {"FORCETLS": 1}  # MariaDB's; MySQL's ODBC driver takes TLS where the server has it
        return {"ssl_mode": "REQUIRED"}

    def connect_timeout(self, driver: str, seconds: int) -> dict[str, Any]:
        return {"timeout" if driver == "pyodbc" else "connect_timeout": seconds}


BACKENDS: dict[str, type[Backend]] = {"postgresql": PostgreSQL, "mysql": MySQL, "mariadb": MySQL}


def rows_of(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    """Run `statement` as it stands, without SQLAlchemy's compiler, and return its rows."""
    result = connection.exec_driver_sql(statement)
    return [tuple(row) for row in result] if result.returns_rows else []


def scalar(connection: Connection, statement: str) -> Any:  # noqa: ANN401 - whatever the server answers
    """Run `statement` and return the first column of its first row, or None."""
    rows = rows_of(connection, statement)
    return rows[0][0] if rows else None


def _lenient_context() -> ssl.SSLContext:
    """Return a TLS context for a scenario about forks, not about trust: any certificate will do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
