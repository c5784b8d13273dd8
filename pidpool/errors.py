"""The exceptions that pidpool raises. Each message says what happened, with numbers, and what to do next."""

from __future__ import annotations

from typing import Final


class PidPoolError(Exception):
    """The base of every exception that pidpool defines."""


class InheritedConnectionError(PidPoolError):
    """A connection that belongs to an ancestor of this process was used here.

    Nothing was sent on it. The owner's session, transaction and rows are as they were.

    Args:
        owner: PID of the process that opened the connection and still owns it.
        user: PID of this process.

    """

    def __init__(self, owner: int, user: int) -> None:
        self.owner = owner
        self.user = user
        here = f"pid {user}"
        if owner == user:  # a PID namespace, a reused PID, or a replaced os.getpid
            here += " (the same number, but a process forked from it)"
        super().__init__(
            f"this connection was checked out in pid {owner} and used in {here}. It was discarded here; "
            f"pid {owner} still owns it. Check out a new connection after fork."
        )

    def __reduce__(self) -> tuple[type[InheritedConnectionError], tuple[int, int]]:
        # multiprocessing sends a worker's exceptions home by pickle, which would call us with the message alone.
        return InheritedConnectionError, (self.owner, self.user)


class InheritedFileError(InheritedConnectionError):
    """This process may not open a database that lives inside a process, because of what was open on it at fork.

    Nothing was done to the database. SQLite's locks are not inherited, but libsqlite3's table of them is: a child that
    goes by that table corrupts the file. DuckDB's are not either, but the open database itself is, and a child that
    opens the file gets this copy: what it writes there, or tidies up, costs the owner its committed rows.

    Args:
        owner: PID of the process that had it open when it forked.
        user: PID of this process.
        file: the database.
        obstacle: what was open.
        engine: "SQLite" or "DuckDB".

    """

    def __init__(self, owner: int, user: int, file: str, obstacle: str, engine: str = "SQLite") -> None:
        super().__init__(owner, user)
        self.file = file
        self.obstacle = obstacle
        self.engine = engine
        why, remedy = _OF_ENGINES[engine]
        message = (
            f"pid {user} may not open the {engine} database {file}: when it was forked, pid {owner} had {obstacle}. "
            f"{why} Nothing was done to it, and what pid {owner} does there is safe. Either {remedy}, or start this "
            'process by spawn (multiprocessing.get_context("spawn"), subprocess).'
        )
        self.args = (message,)

    def __reduce__(self) -> tuple[type[InheritedFileError], tuple[int, int, str, str, str]]:  # type: ignore[override]
        return InheritedFileError, (self.owner, self.user, self.file, self.obstacle, self.engine)


#: Why a child may not, and what to do about it.
_OF_ENGINES: Final = {
    "SQLite": (
        "A child does not inherit SQLite's locks, so using the file here could corrupt it.",
        (
            "fork while nothing is in use on the file "
            "(no open transaction, no half-read result, no connection in another thread)"
        ),
    ),
    "DuckDB": (
        (
            "A child inherits a copy of the open database, but neither its locks nor its threads: using it here could "
            "hang, or cost the other process its committed rows."
        ),
        "close every connection to it before you fork (engine.dispose(), or PidPool's close_before_fork=True)",
    ),
}


class DiscardRefusedError(PidPoolError):
    """The owner of a connection asked to discard it, which would leave its session behind on the server.

    Args:
        owner: PID of this process, which owns the connection.

    """

    def __init__(self, owner: int) -> None:
        self.owner = owner
        super().__init__(
            f"pid {owner} opened this connection and owns it; discarding it here would leave its session, "
            "transaction and locks behind on the server. Call close() instead; or discard(connection, force=True) if "
            "another process owns it after all, because this one imported pidpool only after it was forked."
        )

    def __reduce__(self) -> tuple[type[DiscardRefusedError], tuple[int]]:
        return type(self), (self.owner,)


class UnknownDriverWarning(UserWarning):
    """pidpool does not know how to release this driver's connections in a forked child, and pins them there."""
