"""What a scenario gets: engines of the pool under test, children, and witnesses of what the parent lost."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.pool import NullPool

from . import loops
from .backends import rows_of, scalar
from .errors import Lost, Skip
from .family import Family
from .target import server_address
from .witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from .backends import Backend
    from .subjects import Subject
    from .target import Target

T = TypeVar("T")


class Stage(Family):
    """The place in which one scenario with SQL connections plays.

    Args:
        subject: the pool under test.
        target: the database.
        seconds: see `Family` for this and the next.
        report: as there.
    """

    def __init__(
        self,
        subject: Subject,
        target: Target,
        seconds: float,
        report: Callable[[str | None, float | None], None],
    ) -> None:
        super().__init__(target, server_address(target.url) if target.proxied else None, seconds, report)
        self.subject = subject
        self.driver = target.driver
        self.inside_loop = False
        """Whether the scenario runs in a greenlet of an event loop, as it must with an asyncio driver."""
        self.engines: list[Engine] = []
        self._observing = loops.engine(target.url, poolclass=NullPool, **_autocommit(target.driver))

    # Engines and witnesses

    @property
    def dialect(self) -> Backend:
        """The statements for the server."""
        return self.target.dialect

    def engine(self, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own options
        """Return a new engine of the pool under test; `options` are those of `create_engine`."""
        return self.engine_at(self.url, **options)

    def engine_on(self, file: Path, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own options
        """Return a new engine of the pool under test on a file; `options` are those of `create_engine`."""
        return self.engine_at(self.target.url_of(file), **options)

    def engine_at(self, url: str, **options: Any) -> Engine:  # noqa: ANN401 - as above
        """As `engine`, for another URL."""
        engine = self.subject.build(url, **options)
        self.engines.append(engine)
        return engine

    def witness(self, engine: Engine | None = None, *, hold: bool = True, idle: int = 2, **options: object) -> Witness:
        """Return a witness: a parent that has much to lose, and can tell whether it still has it.

        Args:
            engine: the engine to use; a new one by default, made with `options`.
            hold: keep a connection checked out, inside a transaction.
            idle: how many connections to leave idle in the pool.
            **options: those of `create_engine`.

        """
        with self.within("setting up connections in the parent"):
            return Witness(self, engine or self.engine(**options), hold=hold, idle=idle)

    @contextmanager
    def observer(self) -> Iterator[Observer]:
        """Open a connection of its own to the server, past pool and proxy; never while a child forks."""
        with self._observing.connect() as connection:
            yield Observer(self, connection)

    def stored(self, token: str) -> int:
        """Return how many rows the server really has under `token`."""
        with self.observer() as observer:
            return observer.stored(token)

    def need_threads(self) -> None:
        """Skip the rest where connections are not for threads."""
        if self.inside_loop:
            raise Skip("an asyncio engine serves the tasks of an event loop, not threads")

    # What children do

    def awaited(self, action: Callable[[], T]) -> T:
        """Let a child call `action` where its engines work: not in the parent's event loop, if there is one."""
        return loops.in_loop(action) if self.inside_loop else action()

    def follow_recipe(self) -> None:
        """Do what the recipe under test tells children to do first."""
        recipe = self.subject.in_child
        if recipe is not None:
            for engine in self.engines:
                if engine.dialect.is_async and not self.inside_loop:
                    loops.in_loop(partial(recipe, engine))
                else:
                    recipe(engine)

    def use(self, engine: Engine, count: int = 1) -> list[int]:
        """Check `count` connections out at once, query each, return them, and give back their session ids."""
        connections: list[Connection] = []
        try:
            for _ in range(count):
                connections.append(engine.connect())  # noqa: PERF401 - what was opened is closed, if one fails
            sessions = []
            for connection in connections:
                token = self.token()
                answer = scalar(connection, f"SELECT '{token}'")
                if answer != token:
                    raise Lost(f"a query was answered with another one's rows ({answer!r} instead of {token!r})")
                sessions.append(scalar(connection, self.dialect.session_id))
            return sessions
        finally:
            for connection in connections:
                connection.close()

    def drop(self) -> None:
        """Forget every engine and collect garbage: what a process does that has no use for them."""
        self.engines.clear()
        gc.collect()


class Observer:
    """An independent eye on the server."""

    def __init__(self, stage: Stage, connection: Connection) -> None:
        self._dialect = stage.dialect
        self._connection = connection

    def alive(self, sessions: Iterable[int], *, patience: float = 0.0) -> set[int]:
        """Return those of `sessions` that exist; wait `patience` seconds at most for all of them to end."""
        wanted = set(sessions)
        deadline = time.monotonic() + patience
        while wanted:
            found = {row[0] for row in rows_of(self._connection, self._dialect.alive(wanted))}
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(0.02)
        return set()

    def stored(self, token: str) -> int:
        """Return how many rows the ledger has under `token`."""
        return int(scalar(self._connection, self._dialect.stored(token)))

    def lock_owner(self, key: int) -> int | None:
        """Return the session that holds the advisory lock `key`."""
        owner: int | None = scalar(self._connection, self._dialect.lock_owner(key))
        return owner


def _autocommit(driver: str) -> dict[str, Any]:
    """Return options of `create_engine` for connections in autocommit."""
    if driver in {"mysqlconnector", "pyodbc"}:  # whose MySQL dialects know no such level before SQLAlchemy 2.0.40
        return {"connect_args": {"autocommit": True}}
    return {"isolation_level": "AUTOCOMMIT"}
