"""The pools under test. Whatever it is, in the end it is a function from a URL to an SQLAlchemy `Engine`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, Pool, QueuePool

from . import loops
from .errors import Skip, UnknownSubject
from .sharing import CLIENTS, users_own

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from .catalogue import Needs
    from .sharing import ClientSubject

CAPACITY = 5
"""How many connections each pool of ours may open; few, so that a lost slot shows."""

_CHECKOUT_SECONDS = 3.0  # No scenario makes a pool wait for a good reason: a slot that is not there at once is lost.

Build = Callable[..., Engine]


@dataclass(frozen=True)
class Subject:
    """A pool, or a recipe around one, that runs through the catalogue.

    Attributes:
        name: what `subject()` and the command line call it.
        title: what it is, in a few words.
        build: `build(url, **options)` returns an engine; options are those of `create_engine`.
        in_child: what the recipe tells people to call first thing in a forked child, if anything.
        refuses: it promises that a child which uses the parent's connection gets an error.
        adjustable: `build` heeds its options (a user's own function takes nothing but the URL).
    """

    name: str
    title: str
    build: Build
    in_child: Callable[[Engine], None] | None = None
    refuses: bool = False
    adjustable: bool = True


def subject(name: str) -> Subject:
    """Return the pool called `name`.

    Args:
        name: one of `SUBJECTS`, or `module:Class` for a pool class, or `module:function` for a function that
            takes a URL and returns an `Engine`. Modules are also found in the current directory.

    Raises:
        UnknownSubject: nothing of this name; the message lists the known ones.
    """
    if name in SUBJECTS:
        return SUBJECTS[name]
    if name in CONTROLS:
        return CONTROLS[name]
    if ":" in name:
        return _users_own(name)
    known = f"{', '.join(SUBJECTS)}, and module:Class or module:function of yours"
    if name in CLIENTS:
        raise UnknownSubject(
            f"{name!r} shares a Redis client, and this is no Redis URL; for databases there are {known}"
        )
    raise UnknownSubject(f"unknown pool {name!r}; known are {known}")


def client_subject(name: str) -> ClientSubject:
    """Return the way to share a client called `name`.

    Args:
        name: one of `CLIENTS`, or `module:function` for a function that takes a URL and returns a client. Modules are
            also found in the current directory.

    Raises:
        UnknownSubject: nothing of this name; the message lists the known ones.
    """
    if name in CLIENTS:
        return CLIENTS[name]
    known = f"{', '.join(CLIENTS)}, and module:function of yours, which takes the URL and returns a client"
    if ":" in name:
        thing = _load(name)
        if isinstance(thing, type) or not callable(thing):
            raise UnknownSubject(f"{name!r} is not a function that takes a URL and returns a client; known are {known}")
        return users_own(name, thing)
    if name in SUBJECTS or name in CONTROLS:
        raise UnknownSubject(
            f"{name!r} is a pool of SQL connections, which Redis has no use for; for a Redis URL there are {known}"
        )
    raise UnknownSubject(f"unknown client {name!r}; known are {known}")


def subject_for(kind: Needs, name: str) -> Subject | ClientSubject:
    """Return the subject called `name` for a kind of target.

    Raises:
        UnknownSubject: nothing of this name fits it; the message lists what does.
    """
    return client_subject(name) if kind == "client" else subject(name)


def subjects_for(kind: Needs) -> tuple[Subject | ClientSubject, ...]:
    """Return every subject with a name that fits a kind of target."""
    return tuple(CLIENTS.values()) if kind == "client" else tuple((SUBJECTS | CONTROLS).values())


def _users_own(name: str) -> Subject:
    thing = _load(name)
    attribute = name.partition(":")[2]
    if isinstance(thing, type) and issubclass(thing, Pool):
        return Subject(name, f"the pool class {attribute}", _with_class(thing))
    if callable(thing):
        return Subject(name, f"the engine that {attribute} returns", _with_function(thing), adjustable=False)
    raise UnknownSubject(f"{name!r} is neither a pool class nor a function that takes a URL and returns an Engine")


def _load(name: str) -> Any:  # noqa: ANN401 - whatever stands there
    module_name, _, attribute = name.partition(":")
    directory = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)
    try:
        thing: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            thing = getattr(thing, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownSubject(f"cannot load the pool {name!r}: {error}; known are {', '.join(SUBJECTS)}") from error
    return thing


def _with_class(poolclass: type[Pool], for_asyncio: type[Pool] | None = None) -> Build:
    """Return what builds an engine with a pool class, or with its counterpart where the driver is asyncio's."""

    def build(url: str, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own options
        chosen = (for_asyncio if loops.is_asyncio(url) else None) or poolclass
        if issubclass(chosen, QueuePool):
            if chosen._is_asyncio is not loops.is_asyncio(url):
                raise Skip(f"{chosen.__name__} is {'' if chosen._is_asyncio else 'not '}for asyncio drivers")
            sizes = {"pool_size": CAPACITY, "max_overflow": 0, "pool_timeout": _CHECKOUT_SECONDS}
            return loops.engine(url, poolclass=chosen, **(sizes | options))
        return loops.engine(url, poolclass=chosen, **_without_sizes(options))

    return build


_queuepool = _with_class(QueuePool, AsyncAdaptedQueuePool)


def _with_function(function: Callable[[str], Engine]) -> Build:
    def build(url: str, **_: Any) -> Engine:  # noqa: ANN401 - create_engine's own options, which a function ignores
        made = function(url)
        engine = getattr(made, "sync_engine", made)  # of an AsyncEngine
        if not isinstance(engine, Engine):
            raise TypeError(f"{function.__name__} returned {type(made).__name__}, not an SQLAlchemy Engine")
        return engine

    return build


def _without_sizes(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in {"pool_size", "max_overflow", "pool_timeout"}}


def _pidpool(url: str, **options: Any) -> Engine:  # noqa: ANN401
    # They stand in a higher floor of `import pidpool`, loaded on first use.
    from pidpool import AsyncPidPool, PidPool  # noqa: PLC0415

    return _with_class(PidPool, AsyncPidPool)(url, **options)


def _pidnullpool(url: str, **options: Any) -> Engine:  # noqa: ANN401
    from pidpool import PidNullPool  # noqa: PLC0415

    return _with_class(PidNullPool)(url, **options)


def _dispose_without_close(engine: Engine) -> None:
    engine.dispose(close=False)


def _with_listener(url: str, **options: Any) -> Engine:  # noqa: ANN401
    """Build the recipe of SQLAlchemy's manual, "Using Connection Pools with Multiprocessing"."""
    engine = _queuepool(url, **options)

    def note_owner(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["pid"] = os.getpid()

    def compare_owner(
        _connection: DBAPIConnection, record: ConnectionPoolEntry, proxied: PoolProxiedConnection
    ) -> None:
        if record.info["pid"] != os.getpid():
            record.dbapi_connection = proxied.dbapi_connection = None  # type: ignore[misc]
            message = f"connection belongs to pid {record.info['pid']}, checked out in pid {os.getpid()}"
            raise exc.DisconnectionError(message)

    event.listen(engine, "connect", note_owner)
    event.listen(engine, "checkout", compare_owner)
    return engine


def _closed_before_fork(url: str, **options: Any) -> Engine:  # noqa: ANN401
    """Build a recipe seen in the wild: close what is idle before every fork, so that nothing is inherited."""
    engine = _queuepool(url, **options)
    os.register_at_fork(before=engine.dispose)
    return engine


def _psycopg_pool(url: str, **options: Any) -> Engine:  # noqa: ANN401
    if make_url(url).get_driver_name() != "psycopg":
        raise Skip("psycopg_pool works with the driver psycopg only")
    try:
        from psycopg_pool import ConnectionPool  # noqa: PLC0415 - optional
    except ImportError:
        raise Skip("not installed: pip install psycopg-pool") from None
    pool = ConnectionPool(
        kwargs=_connect_arguments(url, options),
        min_size=1,
        max_size=options.pop("pool_size", CAPACITY),
        timeout=_CHECKOUT_SECONDS,
        close_returns=True,  # what SQLAlchemy's `close` must mean here
        open=True,
    )
    engine = create_engine(url, poolclass=NullPool, creator=pool.getconn, **_without_sizes(options))
    event.listen(engine, "engine_disposed", lambda _engine: pool.close())
    return engine


def _dbutils(url: str, **options: Any) -> Engine:  # noqa: ANN401
    try:
        from dbutils.pooled_db import PooledDB  # noqa: PLC0415 - optional
    except ImportError:
        raise Skip("not installed: pip install DBUtils") from None
    parsed = make_url(url)
    if loops.is_asyncio(parsed):
        raise Skip("DBUtils knows no asyncio drivers")
    if parsed.get_driver_name() == "psycopg2":
        raise Skip("SQLAlchemy needs psycopg2's own connections, and DBUtils hands out wrappers")
    arguments = _connect_arguments(url, options)
    size = options.pop("pool_size", CAPACITY)
    pool = PooledDB(parsed.get_dialect().import_dbapi(), maxconnections=size, maxcached=size, **arguments)
    options = _without_sizes(options)
    if parsed.get_driver_name() == "psycopg":
        # Looking for the hstore type needs a real driver connection, which DBUtils does not hand out.
        options["use_native_hstore"] = False
    engine = create_engine(url, poolclass=NullPool, creator=lambda: _Reaching(pool.connection()), **options)
    event.listen(engine, "engine_disposed", lambda _engine: pool.close())
    return engine


class _Reaching:
    """DBUtils' wrapper, through which one can reach what only the driver's connection has: dialects need that."""

    def __init__(self, pooled: Any) -> None:  # noqa: ANN401 - DBUtils has no types
        self._pooled = pooled

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of any driver
        try:
            return getattr(self._pooled, name)
        except AttributeError:
            return getattr(self._pooled._con._con, name)  # the steady connection's, and in it the driver's


def _connect_arguments(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what SQLAlchemy would give to the driver's `connect`; takes `connect_args` out of `options`."""
    parsed = make_url(url)
    positional, arguments = parsed.get_dialect()().create_connect_args(parsed)
    if positional:  # SQLite's file
        arguments["database"] = positional[0]
    return {**arguments, **options.pop("connect_args", {})}


SUBJECTS: dict[str, Subject] = {
    each.name: each
    for each in (
        Subject("pidpool", "pidpool.PidPool", _pidpool, refuses=True),
        Subject("pidnullpool", "pidpool.PidNullPool", _pidnullpool, refuses=True),
        Subject("queuepool", "SQLAlchemy's QueuePool", _queuepool),
        Subject("nullpool", "SQLAlchemy's NullPool", _with_class(NullPool)),
        Subject(
            "queuepool+dispose",
            "QueuePool, engine.dispose() in the child",
            _queuepool,
            Engine.dispose,
        ),
        Subject(
            "queuepool+dispose-noclose",
            "QueuePool, engine.dispose(close=False) in the child",
            _queuepool,
            _dispose_without_close,
        ),
        Subject("queuepool+listener", "QueuePool with the event listeners of SQLAlchemy's manual", _with_listener),
        Subject("psycopg-pool", "psycopg_pool.ConnectionPool behind an Engine", _psycopg_pool),
        Subject("dbutils", "DBUtils' PooledDB behind an Engine", _dbutils),
    )
}
"""The pools that have a name, in the order in which they are listed."""

# Recipes that exist here only to show that a row can fail.
CONTROLS: dict[str, Subject] = {
    "queuepool+before-fork": Subject(
        "queuepool+before-fork", "QueuePool, engine.dispose() before every fork (a control)", _closed_before_fork
    ),
}
