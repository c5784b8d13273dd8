"""A database that does nothing, so that all that is measured is the pool: URL ``nothing://``.

It is a DB-API module and, for SQLAlchemy, the dialect to it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy import engine

URL = "nothing://"

# What PEP 249 asks of a module.
apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"


class Error(Exception):
    """PEP 249's; nothing raises it, but pools look for it and for those below."""


class DatabaseError(Error):
    """PEP 249's."""


class OperationalError(DatabaseError):
    """PEP 249's."""


class InternalError(DatabaseError):
    """PEP 249's."""


class InterfaceError(Error):
    """PEP 249's."""


class Connection:
    """Takes every call and does nothing, but remembers whether somebody is using it."""

    opened = 0
    """How many there have been in this process; exact only while one thread at a time opens them."""

    def __init__(self) -> None:
        self.in_use = False
        Connection.opened += 1

    def cursor(self, *_: object) -> Cursor:
        """Return a cursor that leads back here, whatever a pool has wrapped around this connection."""
        return Cursor(self)

    def rollback(self) -> None:
        """Do nothing."""

    commit = close = rollback


class Cursor:
    """A cursor without results."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def execute(self, *_: object) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def connect(*_: object, **__: object) -> Connection:
    """Return a connection to nothing."""
    return Connection()


class Dialect(DefaultDialect):
    """SQLAlchemy's side of it; its rollback, commit and close are the stock ones, as most dialects' are."""

    name = "nothing"
    driver = "nothing"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        """Return this module."""
        return sys.modules[__name__]

    def create_connect_args(self, url: engine.URL) -> Any:  # noqa: ANN401, ARG002 - SQLAlchemy's signature
        """Return no arguments."""
        return (), {}

    def initialize(self, connection: engine.Connection) -> None:
        """Ask the server nothing about itself: there is none."""


registry.register("nothing", __name__, "Dialect")
