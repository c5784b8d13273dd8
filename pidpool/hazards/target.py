"""The database or server under audit: is it usable, and where in it may the audit work?"""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import exc
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from . import loops, redis
from .backends import BACKENDS, PACKAGES, scalar
from .errors import TargetError, Unusable, summary
from .proxy import RecordingProxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sqlalchemy.engine import URL
    from typing_extensions import Self

    from .backends import Backend
    from .catalogue import Needs

T = TypeVar("T")

_CONNECT_SECONDS = 10

# With one of these the client compares the server's name with its certificate: a proxy in between would be
# refused.
_NAME_CHECKS = ("sslrootcert", "ssl_ca", "ssl", "ssl_verify_identity")
_NO_CHECKS = ("disable", "allow", "prefer", "require")  # asyncpg's `ssl` is what libpq calls `sslmode`.


_PRODUCTS = {"sqlite": "SQLite", "duckdb": "DuckDB"}
_SQLITE_DRIVERS = ("pysqlite", "aiosqlite")
_NO_FILES = (":memory:", "md:", "motherduck:")
# Every driver takes the password as a query parameter as well, under a name of its own; some take further secrets.
_SECRET = re.compile(r"\w*(?:passw|passphrase|pwd|secret|token)\w*", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(rf"\b({_SECRET.pattern})=(?!\*{{3}}:?(?:[&\s]|$))[^&\s]*", re.IGNORECASE)

# What stands before the first "+" or ":" of a URL -> what kind of target that is; all others are SQL servers.
_KINDS: dict[str, Needs] = {
    "sqlite": "file",
    "duckdb": "duckdb",
    "redis": "client",
    "rediss": "client",
    "unix": "client",
}

_NO_FORK = "this system has no fork, so there is nothing to survive"
_ESCAPE = (
    "the URL has an '@' that does not stand before the host, so where its password ends is a guess; "
    "percent-encode user name and password: %40 for '@', %2F for '/', %3A for ':', %3F for '?'"
)


@dataclass(frozen=True)
class Target:
    """A database that was reachable a moment ago, with a corner of its own for the audit.

    Use it as a context manager, or call `close`, which removes what `check_target` created.
    """

    url: str = field(repr=False)
    """The URL with its password: not for display."""
    safe_url: str
    """The URL with its password hidden, and whatever else is secret in it: this one may be shown."""
    backend: str
    """"postgresql", "mysql" (which stands for MariaDB, too), "sqlite", "duckdb" or "redis"."""
    driver: str
    """A key of `PACKAGES`, or "redis-py"."""
    server_version: str
    namespace: str
    """The schema (PostgreSQL), the prefix of the tables (MySQL, MariaDB) or of the keys (Redis), or the folder (files)
    in which it works."""
    proxied: bool
    """Whether the recording proxy can stand between the pool and the server (it needs TCP)."""

    @property
    def kind(self) -> Needs:
        """Whether it is an SQL server, a file, or a server with clients that are no SQL connections."""
        return _KINDS.get(self.backend, "server")

    def url_of(self, file: Path) -> str:
        """Return the URL with another file in it."""
        return make_url(self.url).set(database=str(file)).render_as_string(hide_password=False)

    @property
    def dialect(self) -> Backend:
        """The statements for this kind of server."""
        return BACKENDS[self.backend](self.namespace)

    @property
    def is_asyncio(self) -> bool:
        """Whether the driver is one for asyncio."""
        return self.kind != "client" and loops.is_asyncio(self.url)

    def as_job(self) -> dict[str, Any]:
        """Return what a fresh process needs to make the same target; it contains the password."""
        return asdict(self)

    def conceal(self, text: str) -> str:
        """Return `text` without the secrets of the URL, should a driver have put them there."""
        url = make_url(self.url)
        # Not by ``normalized_query``, which raises in SQLAlchemy 2.0.0.
        parameters = [
            value
            for name, values in url.query.items()
            if _SECRET.search(name)
            for value in ((values,) if isinstance(values, str) else values)
        ]
        for secret in (*_secrets_of(url), *parameters):
            # One of one or two letters cannot be told from ordinary words.
            if secret and len(secret) > 2:  # noqa: PLR2004
                text = text.replace(secret, "***")
        return hide_parameters(text)

    def close(self) -> None:
        """Remove what the audit created; call it once.

        Raises:
            TargetError: the server refused, or is gone; the message names what is left behind.
        """
        if self.kind in ("file", "duckdb"):
            shutil.rmtree(self.namespace, ignore_errors=True)
            return
        try:
            if self.kind == "client":
                redis.remove(self.url, self.namespace)
            else:
                _execute(make_url(self.url), self.dialect.removal)
        except Exception as error:  # noqa: BLE001 - of SQLAlchemy or of redis-py, which need not be there
            raise TargetError(
                f"could not remove {self.namespace} from {self.safe_url} ({self.conceal(summary(error))}); "
                "please drop it yourself"
            ) from None

    def __enter__(self) -> Self:
        """Return the target itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what the audit created."""
        self.close()


def hide_parameters(text: str) -> str:
    """Return `text` with ``***`` for the value of each ``password=...`` in it, and of what else sounds secret."""
    return _SECRET_PARAMETER.sub(r"\1=***", text)


def kind_of(url: str | None) -> Needs:
    """Return what kind of target a URL means, going by its scheme alone. Without one it is the embedded PostgreSQL."""
    return _KINDS.get((url or "").partition("://")[0].partition("+")[0], "server")


def check_target(url: str) -> Target:
    """Connect to `url` once and create the audit's own schema or tables there; beside a file, its own folder.

    In Redis it creates nothing yet: its keys begin with the target's namespace.

    Raises:
        TargetError: the URL is unusable, its driver is missing or unsupported, the server is unreachable, or
            the user may not create anything. The message contains no password and says what to do.
    """
    other = _file(url) or _redis_server(url)
    if other is not None:
        return other
    target = reach(url)
    parsed = make_url(target.url)
    dialect = target.dialect
    try:
        _execute(parsed, dialect.creation)
    except exc.SQLAlchemyError as error:
        what = "a schema" if dialect.name == "postgresql" else "tables and temporary tables"
        raise TargetError(
            f"cannot create {what} of the audit's own in {target.safe_url}: {target.conceal(summary(error))}. "
            f"Name a database in the URL in which this user may create {what}; nothing else there is touched."
        ) from None
    return replace(target, proxied=_passes_a_proxy(parsed, dialect))


def _file(url: str) -> Target | None:
    """Return the target for a file: a folder beside it, because the scenarios damage files. None for a server.

    Raises:
        TargetError: it is no file, or nothing may be created beside it.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        dialect = parsed.get_dialect()
    except (exc.SQLAlchemyError, ValueError):
        if url.partition(":")[0] == "duckdb":
            raise TargetError("the driver duckdb_engine is not installed: pip install duckdb duckdb-engine") from None
        return None  # which is said elsewhere
    if backend not in _PRODUCTS or (backend == "sqlite" and dialect.driver not in _SQLITE_DRIVERS):
        return None
    if not hasattr(os, "fork"):
        raise TargetError(_NO_FORK)
    product = _PRODUCTS[backend]
    database = parsed.database or ":memory:"
    if database.startswith(_NO_FILES) or "uri" in parsed.query:
        raise TargetError(
            f"for {product}, name a file by its path: {parsed.drivername}:///file.db "
            "(it need not exist, and is not touched)"
        )
    try:
        driver, version = _version_of_files(backend, dialect)
    except ImportError:
        raise TargetError(f"the driver {dialect.driver} is not installed: pip install {dialect.driver}") from None
    path = Path(database)
    try:
        folder = tempfile.mkdtemp(prefix="pidpool_audit_", dir=path.absolute().parent)
    except OSError as error:
        raise TargetError(
            f"cannot create a folder of the audit's own beside {path}: {error.strerror}. Name a file in a folder in "
            "which this user may create one; nothing else there is touched."
        ) from None
    return Target(
        url=parsed.render_as_string(hide_password=False),
        safe_url=_safe(parsed),
        backend=backend,
        driver=driver,
        server_version=f"{product} {version}",
        namespace=folder,
        proxied=False,
    )


def _version_of_files(backend: str, dialect: Any) -> tuple[str, str]:  # noqa: ANN401 - a dialect's class
    """Return the driver's name, and the library's version."""
    if backend == "duckdb":  # whose dialect inherits psycopg2's, and imports that if it is asked
        return backend, importlib.metadata.version(backend)
    return dialect.driver, dialect.import_dbapi().sqlite_version


def _redis_server(url: str) -> Target | None:
    """Return the target for a Redis server; None for all others.

    Raises:
        TargetError: as `check_target`.
    """
    if kind_of(url) != "client":
        return None
    if not hasattr(os, "fork"):
        raise TargetError(_NO_FORK)
    _refuse_stray_at(url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise TargetError(
            "this is not the URL of a Redis server; expected something like redis://host:6379/0"
        ) from None
    if "@" in f"{parsed.host}{parsed.port}{parsed.database}":
        raise TargetError(_ESCAPE)
    target = Target(
        url=parsed.render_as_string(hide_password=False),
        safe_url=_safe(parsed),
        backend="redis",
        driver="redis-py",
        server_version="",
        namespace=f"pidpool_audit_{secrets.token_hex(4)}",
        proxied=False,
    )
    try:
        version = redis.reach(target.url, target.namespace)
    except ImportError:
        raise TargetError("the driver redis-py is not installed: pip install redis") from None
    except Unusable as unusable:
        raise TargetError(f"cannot audit {target.safe_url}: {target.conceal(str(unusable))}") from None
    return replace(target, server_version=version, proxied=_redis_passes_a_proxy(target.url))


def _redis_passes_a_proxy(url: str) -> bool:
    """Try it: certificates and host-based rules may object to the detour."""
    address = redis.address(url)
    if address is None or os.name != "posix":
        return False
    with RecordingProxy(*address) as proxy:
        return redis.ping(through(proxy, url))


def reach(url: str) -> Target:
    """Connect to `url` once and create nothing there, so that there is nothing to `close`.

    Raises:
        TargetError: as `check_target`.
    """
    if not hasattr(os, "fork"):
        raise TargetError(_NO_FORK)
    parsed = _parse(url)
    driver = _driver_name(parsed)
    namespace = f"pidpool_audit_{secrets.token_hex(4)}"
    dialect = BACKENDS[parsed.get_backend_name()](namespace)
    target = Target(
        url=parsed.render_as_string(hide_password=False),
        safe_url=_safe(parsed),
        backend=dialect.name,
        driver=driver,
        server_version="",
        namespace=namespace,
        proxied=False,
    )
    try:
        version = _ask(parsed, dialect.version, dialect.connect_timeout(driver, _CONNECT_SECONDS))
    except exc.SQLAlchemyError as error:
        raise TargetError(
            f"cannot connect to {target.safe_url}: {target.conceal(summary(error))}. "
            "Is the server up, and the URL right?"
        ) from None
    return replace(target, server_version=str(version))


def _safe(url: URL) -> str:
    if url.username and _secrets_of(url) == (url.username,):
        url = url.set(username="", password=url.username)
    return hide_parameters(url.render_as_string(hide_password=True))


def _secrets_of(url: URL) -> tuple[str | None, ...]:
    # Redis has passwords without users, and people forget the colon before them.
    is_redis = _KINDS.get(url.drivername) == "client"
    return (url.username if is_redis and url.password is None else url.password,)


def through(proxy: RecordingProxy, url: str) -> str:
    """Return `url` with the proxy in the server's place."""
    return at(make_url(url), proxy.host, proxy.port).render_as_string(hide_password=False)


def at(url: URL, host: str, port: int) -> URL:
    """Return the URL of another server."""
    url = url.set(host=host, port=port)
    if url.drivername.endswith("+pyodbc"):  # not a question for a dialect: Redis has none
        # SQLAlchemy writes "Server=host,port", as SQL Server has it; others read that as a host, and take the default
        # port. They have a parameter for it.
        url = url.update_query_dict({"port": str(port)})
    return url


def _parse(url: str) -> URL:
    known = ", ".join(PACKAGES)
    _refuse_stray_at(url)
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        stray = "@" in f"{parsed.host}{parsed.port}{parsed.database}"
    except (exc.ArgumentError, ValueError):
        # The text itself stays out of the message: whatever it is, it may contain a password.
        raise TargetError(
            "this is not an SQLAlchemy URL; expected something like postgresql+psycopg://user:password@host/database"
        ) from None
    if stray:
        raise TargetError(_ESCAPE)
    if backend not in BACKENDS:
        raise TargetError(f"pidpool does not know {backend!r} databases; it knows these drivers: {known}")
    try:
        driver = _driver_name(parsed)
        parsed.get_dialect()
    except (exc.NoSuchModuleError, exc.ArgumentError):
        raise TargetError(
            f"SQLAlchemy has no driver for {parsed.drivername!r}; pidpool knows these drivers: {known}"
        ) from None
    if driver not in PACKAGES:
        raise TargetError(f"pidpool does not support the driver {driver!r}; it knows {known}")
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError:
        raise TargetError(f"the driver {driver} is not installed: pip install '{PACKAGES[driver]}'") from None
    port = str(parsed.query.get("port", parsed.port))
    if driver == "pyodbc" and parsed.host and parsed.database and port.isdigit():
        parsed = at(parsed, parsed.host, int(port))
    return parsed


def _refuse_stray_at(url: str) -> None:
    # The part of a password behind an "@" would be taken for the host, and shown: here, and by the drivers.
    _, _, rest = url.partition("@")
    if "@" in rest.partition("?")[0] or "@" in rest.partition("=")[0]:
        raise TargetError(_ESCAPE)


def _driver_name(url: URL) -> str:
    name = url.get_driver_name()
    return {"mysqldb": "mysqlclient"}.get(name, name)


def server_address(url: str) -> tuple[str, int] | None:
    """Return host and port if the URL means TCP, or None for a socket file or several hosts."""
    parsed = make_url(url)
    socket_file = {"unix_socket", "unix_sock", "host", "read_default_file"} & set(parsed.query)
    if parsed.host is None or parsed.host.startswith("/") or socket_file:
        return None
    if parsed.host == "localhost" and _driver_name(parsed) == "mysqlclient":
        return None  # MySQL's C library takes "localhost" for its socket file.
    return parsed.host, parsed.port or BACKENDS[parsed.get_backend_name()].default_port


def _passes_a_proxy(url: URL, dialect: Backend) -> bool:
    """Try it: certificates, host-based rules and sandboxes may all object to the detour."""
    address = server_address(url.render_as_string(hide_password=False))
    if address is None or os.name != "posix":
        return False
    if str(url.query.get("sslmode", "")).startswith("verify") or any(
        key in url.query and url.query[key] not in _NO_CHECKS for key in _NAME_CHECKS
    ):
        return False
    with RecordingProxy(*address) as proxy:
        detour = at(url, proxy.host, proxy.port)
        try:
            _ask(detour, dialect.session_id, dialect.connect_timeout(_driver_name(url), _CONNECT_SECONDS))
        except exc.SQLAlchemyError:
            return False  # The audit then does without byte counts, and goes by the server's word alone.
        return True


def _ask(url: URL, statement: str, arguments: dict[str, Any]) -> object:
    def ask() -> object:
        engine = loops.engine(url, poolclass=NullPool, connect_args=arguments)
        with engine.connect() as connection:
            return scalar(connection, statement)

    return _translated(url, ask)


def _execute(url: URL, statements: tuple[str, ...]) -> None:
    def execute() -> None:
        engine = loops.engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    _translated(url, execute)


def _translated(url: URL, action: Callable[[], T]) -> T:
    """Call `action` where the driver works.

    SQLAlchemy lets some errors through as they are: those of asyncio drivers, and those about a parameter in the URL
    that the driver does not know, or whose value it cannot read.
    """
    try:
        return loops.where_it_works(url, action)
    except exc.SQLAlchemyError:
        raise
    except Exception as error:
        raise exc.OperationalError(None, None, error) from error
