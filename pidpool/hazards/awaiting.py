"""Programs that await: a fork copies their event loop, too."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy.engine import make_url
from sqlalchemy.util import greenlet_spawn

from . import loops
from .catalogue import enters
from .errors import Lost, Skip, summary
from .family import LEFT_TO_FINALIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from .family import Leave
    from .stage import Stage

#: An asyncio driver for each kind of server, where the audit was given another one.
_COUNTERPARTS = {"postgresql": ("asyncpg", "psycopg_async"), "mysql": ("aiomysql", "asyncmy")}
_MODULES = {"psycopg_async": "psycopg"}
_NAP = 0.05  # Seconds that a thread works, so that the loop has fallen asleep when the thread wakes it.
_UNDER_WAY = 0.3  # Seconds of a query that is under way while children come and go; how many does not matter.


@enters(
    "async",
    title="runs its own event loop, or none",
    promise="go on awaiting, not hang",
    advice=(
        "Use AsyncPidPool, and let children run a loop of their own (`asyncio.run`). Without it, do not fork once an "
        "asyncio connection is open: letting go of it in a child stops the parent's event loop."
    ),
    makes_loops=True,
)
def awaiting(stage: Stage) -> None:
    """Parent and child share one epoll.

    An event loop asks the kernel's epoll which of its sockets is ready, and a fork copies the loop, but not the epoll:
    both processes have the same one. When the child closes an inherited connection or loop, or merely lets go of it,
    asyncio takes the socket out of the epoll, and that is the parent's as well. The parent then awaits an answer
    that has long been there, for ever.
    """
    engine = _engine(stage)
    between = _Parent(stage, engine)
    loop = asyncio.new_event_loop()
    between.run = loop.run_until_complete
    between.first(between.begin())
    for deed, action, leave in _deeds(between, loop):
        stage.child(action, leave=leave)
        between.check(deed)
    between.finish()
    loop.close()

    # Connections of the loop that was just closed are idle in the pool now: another loop must do without them.
    inside = _Parent(stage, engine)
    with stage.within("the parent's next event loop"):
        asyncio.run(inside.live_through_forks())
    if stage.noise:
        raise Lost(stage.noise)


def _engine(stage: Stage) -> AsyncEngine:
    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415 - needs greenlet, as the drivers do

    return AsyncEngine(stage.engine_at(_url(stage)))


def _url(stage: Stage) -> str:
    if loops.is_asyncio(stage.url):
        return stage.url
    if not stage.subject.adjustable:
        raise Skip(f"it is asked for an asyncio engine with an asyncio URL only, and {stage.driver} is not asyncio's")
    url = make_url(stage.url)
    drivers = _COUNTERPARTS[stage.target.backend]
    for driver in drivers:
        if importlib.util.find_spec(_MODULES.get(driver, driver)) and importlib.util.find_spec("greenlet"):
            # What else the URL says is meant for another driver.
            other = url.set(drivername=f"{url.get_backend_name()}+{driver}", query={})
            return other.render_as_string(hide_password=False)
    raise Skip(f"no asyncio driver is installed: pip install {drivers[0]}, and greenlet")


class _Parent:
    """Awaits, and has something to lose."""

    def __init__(self, stage: Stage, engine: AsyncEngine) -> None:
        self.stage = stage
        self.engine: AsyncEngine | None = engine
        self.held: AsyncConnection | None = None
        self.session = 0
        self.token = stage.token()
        self.run: Callable[[Any], Any] = asyncio.run

    def first(self, beginning: Any) -> None:  # noqa: ANN401 - a coroutine
        """Run the first coroutine: with it one learns whether the driver gets through at all."""
        try:
            with self.stage.within("setting up connections in the parent"):
                self.run(beginning)
        except (exc.SQLAlchemyError, OSError) as error:
            if self.stage.inside_loop or loops.is_asyncio(self.stage.url):
                raise
            raise Skip(f"the asyncio driver cannot connect here: {summary(error)}") from error

    async def begin(self) -> None:
        """Leave a connection idle, and hold another one in a transaction."""
        engine = self._engine()
        async with engine.connect(), engine.connect():
            pass
        self.held = await engine.connect()
        self.session = await self.ask(self.stage.dialect.session_id)
        await self.held.exec_driver_sql(self.stage.dialect.store(self.token))

    async def ask(self, statement: str) -> Any:  # noqa: ANN401 - whatever the server answers
        """Ask on the connection that is held."""
        if self.held is None:
            raise RuntimeError("this process has dropped its connection")
        return (await self.held.exec_driver_sql(statement)).scalar()

    def check(self, deed: str) -> None:
        """See whether the loop still hears of its sockets and of its threads."""
        with self.stage.within(f"the parent's await (the child {deed})"):
            self.run(self.look(deed))

    async def look(self, deed: str) -> None:
        """As `check`, inside the loop."""
        try:
            session = await self.ask(self.stage.dialect.session_id)
        except Exception as error:
            raise Lost(f"the parent's connection broke: {summary(error)} (the child {deed})") from error
        if session != self.session:
            raise Lost(f"the parent's session is gone (the child {deed})")
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, _NAP)

    async def use(self) -> None:
        """Query on a connection of the pool's."""
        async with self._engine().connect() as connection:
            token = self.stage.token()
            answer = (await connection.exec_driver_sql(f"SELECT '{token}'")).scalar()
            if answer != token:
                raise Lost(f"a query was answered with another one's rows ({answer!r} instead of {token!r})")
            session = (await connection.exec_driver_sql(self.stage.dialect.session_id)).scalar()
            if session == self.session:
                raise Lost("the child queried on the parent's session")

    def finish(self) -> None:
        """Commit, and see that the row is stored."""
        with self.stage.within("the parent's COMMIT"):
            self.run(self.commit())

    async def commit(self) -> None:
        """As `finish`, inside the loop; the connections go back to the pool."""
        if self.held is not None:
            await self.held.commit()
            await self.held.close()
        stored = await greenlet_spawn(self.stage.stored, self.token)
        if stored != 1:
            raise Lost(f"the parent's COMMIT succeeded and stored {stored} of 1 rows")
        await self.use()

    def drop(self) -> None:
        """Forget everything, and collect garbage: for a child."""
        self.held = self.engine = None
        self.stage.drop()

    async def dispose(self) -> None:
        """Await what closes a pool; for a child."""
        await self._engine().dispose()
        await self.use()

    async def close(self) -> None:
        """End in good order what is the parent's; for a child."""
        if self.held is not None:
            await self.held.rollback()
            await self.held.invalidate()
            await self.held.close()

    async def execute(self) -> None:
        """Use what is the parent's; for a child."""
        await self.ask(self.stage.dialect.store(self.token))

    def is_refused(self) -> bool:
        """Return whether that raised."""
        return self.stage.is_refused(lambda: asyncio.run(self.execute()))

    async def live_through_forks(self) -> None:
        """Fork inside a running loop, where a task awaits an answer and another one is about to."""
        await self.begin()
        query = asyncio.create_task(self._take_long())
        await asyncio.sleep(_UNDER_WAY / 3)  # until it is under way
        deeds: list[tuple[str, Callable[[], object], Leave]] = [
            ("ended", lambda: None, "os._exit"),
            ("ran an event loop of its own", lambda: asyncio.run(self.use()), "os._exit"),
            # Unwinds `asyncio.run` in the child: that cancels every task and closes the loop.
            ("left the running loop by sys.exit", lambda: None, "sys.exit"),
        ]
        for deed, action, leave in deeds:
            self.stage.child(action, leave=leave)
            await self.look(deed)
        try:
            await query
        except Exception as error:
            raise Lost(f"a query of the parent's that was under way broke: {summary(error)}") from error
        await self.commit()
        await self._engine().dispose()

    async def _take_long(self) -> None:
        async with self._engine().connect() as connection:
            await connection.exec_driver_sql(self.stage.dialect.sleep(_UNDER_WAY))

    def _engine(self) -> AsyncEngine:
        if self.engine is None:
            raise RuntimeError("this process has dropped the engine")
        return self.engine


def _deeds(parent: _Parent, loop: asyncio.AbstractEventLoop) -> Iterator[tuple[str, Callable[[], object], Leave]]:
    def drop() -> None:
        parent.drop()
        gc.collect()

    def execute() -> None:
        if not parent.is_refused() and parent.stage.subject.refuses:
            raise Lost("the child executed on the parent's connection, and got no error")

    yield "ran an event loop of its own", lambda: asyncio.run(parent.use()), "os._exit"
    yield "awaited engine.dispose()", lambda: asyncio.run(parent.dispose()), "os._exit"
    yield "closed the connection it inherited", lambda: asyncio.run(parent.close()), "os._exit"
    yield "executed on the connection it inherited", execute, "os._exit"
    yield "closed the event loop it inherited", loop.close, "os._exit"
    yield "dropped everything", drop, "os._exit"
    yield "left by sys.exit", lambda: None, "sys.exit"
    yield "left by sys.exit, all in a global", lambda: LEFT_TO_FINALIZATION.append(parent), "sys.exit"
