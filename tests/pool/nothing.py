"""A DB-API that does nothing, quickly: for tests of the pool itself that need hundreds of thousands of connections.

It notices what no real driver would say: that two users have a connection at the same time, and that a process touches
a connection which another one opened.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from pidpool.errors import UnknownDriverWarning

if TYPE_CHECKING:
    from collections.abc import Callable

# A connection of its has no descriptor, so pidpool pins it in a child, and says so.
warnings.simplefilter("ignore", UnknownDriverWarning)


class TroubleError(Exception):
    """What the driver raises when it is told to."""


class Cursor:
    """Executes nothing."""

    def __init__(self, connection: NothingConnection) -> None:
        self.connection = connection

    def execute(self, statement: str) -> None:
        """Do nothing with a statement."""
        self.connection.touch(statement)

    def close(self) -> None:
        """Do nothing."""


class NothingConnection:
    """A connection to nowhere, which knows who uses it."""

    def __init__(self, database: Nothing, number: int) -> None:
        self.database = database
        self.number = number
        self.pid = os.getpid()
        self.closed = False
        #: What ``rollback`` raises, once.
        self.trouble: Exception | None = None
        self._user = threading.Lock()

    def __repr__(self) -> str:
        return f"<{self.number}>"

    def begin_use(self) -> None:
        """Called by who has checked it out. Atomic: of two users at the same time, one is noticed."""
        self.touch("use")
        if not self._user.acquire(blocking=False):
            self.database.failures.append(f"{self!r} has two users")

    def end_use(self) -> None:
        """Called by its user before it is given back."""
        self._user.release()

    def touch(self, what: str) -> None:
        """Note a failure if this process may not do that to the connection."""
        if self.pid != os.getpid():
            self.database.failures.append(f"{what}: pid {os.getpid()} touched {self!r} of pid {self.pid}")
        if self.closed and what == "use":
            self.database.failures.append(f"{self!r} is closed")

    def cursor(self) -> Cursor:
        """Return a cursor."""
        return Cursor(self)

    def commit(self) -> None:
        """Commit nothing."""
        self.touch("commit")

    def rollback(self) -> None:
        """Roll nothing back."""
        self.touch("rollback")
        if self.closed:
            raise TroubleError
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble

    def close(self) -> None:
        """Close nothing."""
        self.touch("close")
        self.closed = True


class Nothing:
    """Where the connections lead to; a pool's creator."""

    def __init__(self) -> None:
        self.failures: deque[str] = deque()
        #: Asked before a connection is opened: may raise.
        self.before_connect: Callable[[], object] = lambda: None
        self._opened: deque[weakref.ref[NothingConnection]] = deque()

    def __call__(self) -> Any:  # noqa: ANN401 - not all of what SQLAlchemy's protocol of a connection has
        self.before_connect()
        connection = NothingConnection(self, len(self._opened))
        self._opened.append(weakref.ref(connection))
        return connection

    @property
    def opened(self) -> int:
        """How many connections were opened."""
        return len(self._opened)

    @property
    def alive(self) -> list[NothingConnection]:
        """The connections of this process that are neither closed nor garbage."""
        found = [connection for reference in self._opened if (connection := reference()) is not None]
        return [connection for connection in found if not connection.closed and connection.pid == os.getpid()]
