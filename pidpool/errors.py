"""The exceptions that pidpool raises. Each message says what happened, with numbers, and what to do next."""

from __future__ import annotations


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
