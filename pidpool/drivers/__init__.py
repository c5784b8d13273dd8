"""What pidpool must know of a driver: where a connection keeps its descriptor. One small module per driver.

A module here is named, in lower case, for the top-level package that the driver's connection class comes from, and
defines ``DRIVER``. It never imports the driver.

A third party adds a driver through the entry-point group ``pidpool.drivers``. The entry point's name is the top-level
package of the connection class, its value an instance of ``Driver``::

    # pyproject.toml
    [project.entry-points."pidpool.drivers"]
    acmedb = "acmedb_pidpool:DRIVER"

    # acmedb_pidpool.py
    from pidpool.drivers import Driver
    DRIVER = Driver("acmedb", fileno=lambda connection: connection.transport.sock.fileno())
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pidpool.errors import UnknownDriverWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Check(Protocol):
    """Notices, if no hook did, that this process is not the one that owns a client, and has the client discarded."""

    def __call__(self, *, quiet: bool = False) -> None:
        """Raise ``InheritedConnectionError`` in a process that does not own the client, unless ``quiet``."""


@dataclass(frozen=True)
class Driver:
    """How to let go of a driver's connections in a process that does not own them.

    Args:
        name: what people call the driver.
        fileno: returns the descriptor of a connection's socket; raises, or returns a negative number, when the
            connection is closed. It does no I/O. None, or returning it: there is no way to find the descriptor, so
            inherited connections are pinned (see ``pidpool._discard``).
        opens_a_socket: for a driver that hides its descriptor: whether each connect has opened one socket of its own by
            the time that it returns. Then the one that appeared meanwhile, if it is only one, is it. "usually": some
            connects open none (a pool below, a file); then it is, if the process has no other thread besides, and no
            event loop runs.
        descriptors: for a client that has several sockets, or opens them when it likes: returns the descriptors of
            those that it has now. It is called inside ``os.fork()``, too, when another thread may have been changing
            the client: no I/O, no lock. Used instead of ``fileno``.
        silence: called once the descriptor is dead, for a driver whose finalizers would complain about that.
        idle: tells, without I/O, that the server certainly has no open transaction and no unread result, so that a
            rollback would do nothing. None: the driver does not know, so the pool always rolls back.
        streams: tells of a cursor whether it reads its rows from the server as they are asked for, so that closing or
            freeing it talks to the server. None: the driver has no such cursors.
        guard: for a client that is used as it is, outside of any pool of ours: called in the owner with the client and
            a ``Check``. Has that called before anything is sent, received or closed. It is called when the client is
            made, and again before each fork: for what the client has got meanwhile, and ``guarded`` leaves the rest.
        disarm: called in a child, once its descriptors are dead ends. For what a dead end does not settle: locks that
            another thread held, messages that are still to be sent, a task that is cancelled (asyncio drivers then open
            another connection, to cancel the owner's query).
        abort: for an asyncio driver: closes a connection without awaiting anything, in the process that owns it. Called
            in the thread of its event loop, or when that loop is closed. None: the connection is merely dropped.
        sqlite3: for a driver of SQLite's: returns the ``sqlite3.Connection`` that works for a connection (or is it). It
            is what ``pidpool._sqlite`` looks at, and closes in a child. None: it has nothing to do with SQLite.
        revive: for a driver of SQLite's that has a thread for each connection: returns another connection around the
            same ``sqlite3.Connection``, with a thread of its own, to be awaited. Called in a child, for a database in
            memory. None: the connection works there as it is.
        duckdb: for a driver of DuckDB's: returns the ``DuckDBPyConnection`` that a connection wraps (or is). It is what
            ``pidpool._duckdb`` asks for its files, in its owner. None: it has nothing to do with DuckDB.

    """

    name: str
    fileno: Callable[[Any], int | None] | None = None
    opens_a_socket: bool | Literal["usually"] = False
    descriptors: Callable[[Any], Iterable[int]] | None = None
    silence: Callable[[Any], None] | None = None
    idle: Callable[[Any], bool] | None = None
    streams: Callable[[Any], bool] | None = None
    guard: Callable[[Any, Check], None] | None = None
    disarm: Callable[[Any], None] | None = None
    abort: Callable[[Any], None] | None = None
    sqlite3: Callable[[Any], Any] | None = None
    revive: Callable[[Any], Any] | None = None
    duckdb: Callable[[Any], Any] | None = None


@functools.cache
def _built_in() -> dict[str, Driver]:
    return {
        module.name: importlib.import_module(f"{__name__}.{module.name}").DRIVER
        for module in pkgutil.iter_modules(__path__)
    }


def load() -> None:
    """Import the modules in this package, so that looking a driver up needs no file."""
    _built_in()


def inherits(name: str, thing: object) -> bool:
    """Tell whether ``thing`` is an instance of a class called ``name``: no driver is imported here."""
    return any(ancestor.__name__ == name for ancestor in type(thing).__mro__)


def checking(function: Callable[..., Any], check: Check, *, quiet: bool = False) -> Callable[..., Any]:
    """Return a function that calls ``check`` first: for ``Driver.guard``."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the function's
        check(quiet=quiet)
        return function(*args, **kwargs)

    return checked


def guarded(
    kind: type[Any], check: Check, *, speaking: Iterable[str], closing: Iterable[str], **others: Callable[..., Any]
) -> type[Any]:
    """Return a subclass whose methods call ``check`` first, or ``kind`` if it is one: for ``Driver.guard``.

    A client of class ``kind`` may become one of it (``client.__class__ = ...``). Functions on the client itself would
    make a reference cycle, and its owner would no longer free it, and close it, where the program drops it.

    Args:
        kind: the client's class.
        check: what is called first.
        speaking: names of methods that say or hear something; not every version has all.
        closing: names of methods that must stay quiet in a process that does not own the client.
        others: methods that look after themselves.

    """
    if getattr(kind, "_pidpool_check", None) is check:
        return kind
    methods: dict[str, Any] = {name: checking(getattr(kind, name), check) for name in speaking if hasattr(kind, name)}
    methods |= {name: checking(getattr(kind, name), check, quiet=True) for name in closing if hasattr(kind, name)}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__slots__": (), "_pidpool_check": check}
    metaclass: Any = type(kind)  # mypy takes it for `type` itself
    subclass: type[Any] = metaclass(kind.__name__, (kind,), {**methods, **others, **names})
    return subclass


def of(connection: object) -> Driver:
    """Return the driver of a connection; warn once about one that pidpool does not know."""
    connection_class: Any = type(connection)  # as above
    return _of_class(connection_class)


def is_known(connection: object) -> bool:
    """Tell whether somebody has described what ``connection`` is."""
    connection_class: Any = type(connection)  # mypy takes object's metaclass for unhashable
    return _described(connection_class) is not None


def unknown(connection: object) -> Driver:
    """Return the driver to use for a connection whose descriptor cannot be found, and say once what that means."""
    return _pinned(_package(type(connection)))


def _package(connection_class: type) -> str:
    return connection_class.__module__.partition(".")[0]


@functools.cache
def _described(connection_class: type[Any]) -> Driver | None:
    # Applications subclass drivers' connections: the class itself may live in a module of theirs.
    for ancestor in connection_class.__mro__:
        package = _package(ancestor)
        if package.lower() in _built_in():
            return _built_in()[package.lower()]
        for entry_point in importlib.metadata.entry_points(group="pidpool.drivers", name=package):
            driver = entry_point.load()
            if not isinstance(driver, Driver):
                message = (
                    f"the entry point {entry_point.value!r} in the group 'pidpool.drivers' must be an instance of "
                    f"pidpool.drivers.Driver, and is {type(driver).__name__!r}"
                )
                raise TypeError(message)
            return driver
    return None


@functools.cache
def _of_class(connection_class: Any) -> Driver:  # noqa: ANN401 - a class
    described = _described(connection_class)
    if described is not None:
        return described
    package = _package(connection_class)
    if callable(getattr(connection_class, "fileno", None)):
        return Driver(package, fileno=lambda connection: connection.fileno())
    return _pinned(package)


@functools.cache
def _pinned(package: str) -> Driver:
    warnings.warn(
        f"pidpool does not know where the driver {package!r} keeps a connection's descriptor. In a forked child it "
        "will pin the connections that it inherits: their finalizers never run, so the parent's sessions are safe, but "
        "the child keeps their sockets open, and the server does not notice the parent's death while a child lives. "
        "A driver can be described to pidpool through the entry-point group 'pidpool.drivers'; and PerProcess takes a "
        "function `discard`.",
        UnknownDriverWarning,
        stacklevel=2,
    )
    return Driver(package, fileno=None)
