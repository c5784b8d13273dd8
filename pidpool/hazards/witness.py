"""The parent that has something to lose.

A witness holds a connection with everything that a session can carry: an open transaction with a row in it, a
temporary table, a variable, an advisory lock; and leaves other connections idle in the pool. Afterwards it
says, in one line, what of this is gone. The server's word counts, asked through a connection that has nothing
to do with the pool.
"""

from __future__ import annotations

import gc
import secrets
from typing import TYPE_CHECKING

from .backends import scalar
from .errors import Lost, summary

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from .stage import Stage
    from .subjects import Subject

_ENOUGH = 5
_SETTLE_SECONDS = 1.0  # A server that was told goodbye may take a moment to act on it.


class Witness:
    """What one process keeps while its children do their worst. Made by `Stage.witness`.

    Attributes:
        session: the session id of the connection that is checked out.
        pooled: the session ids of the connections that lie idle in the pool (none, if it keeps none).
    """

    def __init__(self, stage: Stage, engine: Engine, *, hold: bool, idle: int) -> None:
        self.stage = stage
        self._engine: Engine | None = engine
        self._held: Connection | None = None
        self.capacity = capacity_of(engine, stage.subject)
        self.session = 0
        self.token = stage.token()
        self._key = secrets.randbelow(2**31)
        if hold:
            self._held = engine.connect()
            self._equip(self._held)
        count = min(idle, self.capacity - 1)
        self.pooled: frozenset[int] = frozenset()
        if count > 0:
            first = stage.use(engine, count)
            # A pool that pools hands the same sessions out again; one that does not has nothing idle to lose.
            self.pooled = frozenset(first) & frozenset(stage.use(engine, count))

    def _equip(self, held: Connection) -> None:
        dialect = self.stage.dialect
        self.session = scalar(held, dialect.session_id)
        held.exec_driver_sql(dialect.create_temporary(self._table, self.token))
        held.exec_driver_sql(dialect.set_variable(self.token))
        held.exec_driver_sql(dialect.take_lock(self._key))
        held.commit()
        held.exec_driver_sql(dialect.store(self.token))

    @property
    def engine(self) -> Engine:
        """The engine; a child that drops it must find no other reference to it."""
        if self._engine is None:
            raise RuntimeError("this process has dropped the engine")
        return self._engine

    @property
    def held(self) -> Connection:
        """The connection that is checked out."""
        if self._held is None:
            raise RuntimeError("this witness holds no connection")
        return self._held

    @property
    def _table(self) -> str:
        return f"pidpool_{self.token}"

    def check(self, deed: str = "") -> None:
        """Ask for everything that does not end the transaction.

        Args:
            deed: what the child did, for the report.

        Raises:
            Lost: something is gone.
        """
        with self.stage.within(f"the parent's query{_after(deed)}"):
            if self._held is not None:
                self._check_session(self._held, deed)
            self._check_server(deed)

    def finish(self, deed: str = "", *, recycled: bool = False) -> None:
        """Check, commit, see that the row is stored, and that the pool has all of its connections.

        Args:
            deed: what the child did, for the report.
            recycled: the pool may have replaced idle connections by its own rules.

        Raises:
            Lost: something is gone.
        """
        self.check(deed)
        sessions = self.pooled
        if self._held is not None:
            with self.stage.within(f"the parent's COMMIT{_after(deed)}"):
                self._commit(self._held, deed)
            if sessions:
                sessions |= {self.session}
            self._held = None
        with self.stage.within(f"the parent's checkout{_after(deed)}"):
            self._check_pool(frozenset() if recycled else sessions, deed)
        if self.stage.noise:
            raise Lost(self.stage.noise + _after(deed))

    def drop_held(self) -> None:
        """Forget the connection that is checked out, and collect garbage: for a child."""
        self._held = None
        gc.collect()

    def drop(self) -> None:
        """Forget all of it, the engine included, and collect garbage: for a child."""
        self._held = None
        self._engine = None
        self.stage.drop()

    def _check_session(self, held: Connection, deed: str) -> None:
        dialect = self.stage.dialect
        questions = (
            (dialect.session_id, self.session, "session"),
            (f"SELECT token FROM {self._table}", self.token, "temporary table"),  # noqa: S608 - a name made here
            (dialect.variable, self.token, "session variable"),
        )
        for statement, expected, what in questions:
            try:
                answer = scalar(held, statement)
            except Exception as error:
                raise self._broken(error, what, deed) from error
            if answer != expected:
                raise Lost(f"the parent's {what} is gone: it read {answer!r} instead of {expected!r}{_after(deed)}")

    def _check_server(self, deed: str) -> None:
        with self.stage.observer() as observer:
            expected = set(self.pooled) | ({self.session} if self._held is not None else set())
            ended = expected - observer.alive(expected)
            if self.session in ended:
                raise Lost(f"the server closed the parent's session{_after(deed)}")
            if ended:
                raise Lost(
                    f"the server closed {len(ended)} of the parent's {len(self.pooled)} idle sessions{_after(deed)}"
                )
            if self._held is not None and observer.lock_owner(self._key) != self.session:
                raise Lost(f"the parent lost its advisory lock{_after(deed)}")

    def _commit(self, held: Connection, deed: str) -> None:
        try:
            held.commit()
        except Exception as error:
            raise self._broken(error, "COMMIT", deed) from error
        stored = self.stage.stored(self.token)
        if stored != 1:
            raise Lost(f"the parent's COMMIT succeeded and stored {stored} of 1 rows{_after(deed)}")
        held.exec_driver_sql(self.stage.dialect.release_lock(self._key))
        held.close()

    def _check_pool(self, sessions: frozenset[int], deed: str) -> None:
        try:
            found = self.stage.use(self.engine, self.capacity)
        except Lost as lost:
            raise Lost(f"in the parent, {lost}{_after(deed)}") from lost
        except Exception as error:
            raise Lost(
                f"the parent can no longer check out its {self.capacity} connections: {summary(error)}{_after(deed)}"
            ) from error
        missing = sessions - set(found)
        if missing:
            raise Lost(f"the parent's pool lost {len(missing)} of {len(sessions)} connections{_after(deed)}")

    def _broken(self, error: Exception, what: str, deed: str) -> Lost:
        with self.stage.observer() as observer:
            if not observer.alive({self.session}, patience=_SETTLE_SECONDS):
                return Lost(f"the server closed the parent's session{_after(deed)}")
        return Lost(f"the parent's {what} is gone: {summary(error)}{_after(deed)}")


def capacity_of(engine: Engine, subject: Subject) -> int:
    """Return how many connections the engine lets out at once, or as many of them as a scenario needs."""
    size = getattr(engine.pool, "size", None)
    known: int = size() if size else 0
    # A pool of the user's may be large, and its overflow is nobody's business: its lasting size is what it
    # can lose.
    return known if known and subject.adjustable else min(known or _ENOUGH, _ENOUGH)


def _after(deed: str) -> str:
    return f" ({deed})" if deed else ""
