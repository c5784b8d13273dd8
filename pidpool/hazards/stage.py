"""What a scenario gets: engines of the pool under test, children, and witnesses of what the parent lost."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import secrets
import select
import signal
import time
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy.pool import NullPool

from . import loops
from .backends import rows_of, scalar
from .errors import Hang, Lost, Skip, summary
from .proxy import RecordingProxy
from .target import server_address, through
from .witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from .backends import Backend
    from .subjects import Subject
    from .target import Target

T = TypeVar("T")
How = Literal["fork", "hookless", "multiprocessing"]
Leave = Literal["os._exit", "sys.exit", "exception", "SIGKILL"]

LEFT_TO_FINALIZATION: list[object] = []
"""What a child puts here is still alive when its interpreter shuts down, like a module's global engine."""

_STATUS = {"os._exit": 0, "sys.exit": 0, "exception": 1, "SIGKILL": -9}
_OPEN_DESCRIPTORS = "/dev/fd"
_PAUSE = 0.001


class UncaughtInChild(Exception):  # noqa: N818 - it stands for any exception of an application
    """The exception that nobody catches; it ends a child that leaves by "exception"."""


class Stage:
    """The place in which one scenario plays, in a process that was started for it alone.

    Args:
        subject: the pool under test.
        target: the database.
        seconds: the time limit of a single step (a child's whole life, or one check in the parent).
        report: called with what the parent waits for, and for how many seconds at most; and with None, None
            when it no longer waits. A driver that hangs inside a C library can only be ended from another
            process.
    """

    def __init__(
        self,
        subject: Subject,
        target: Target,
        seconds: float,
        report: Callable[[str | None, float | None], None],
    ) -> None:
        self.subject = subject
        self.target = target
        self.driver = target.driver
        self.seconds = seconds
        self.depth = 0
        """How many forks lie between the process that started and this one."""
        self.forked = False
        """Whether there has been a child yet."""
        self.inside_loop = False
        """Whether the scenario runs in a greenlet of an event loop, as it must with an asyncio driver."""
        self.engines: list[Engine] = []
        self.noise = ""
        """What the proxy saw on the parent's connections; reported if nothing worse comes to light."""
        self._report = report
        self.url = target.url
        """Where engines connect to: the server, or a proxy before it."""
        self._observing = loops.engine(target.url, poolclass=NullPool, **_autocommit(target.driver))
        self._proxy: RecordingProxy | None = None
        address = server_address(target.url) if target.proxied else None
        if address is not None:
            self._proxy = RecordingProxy(*address)
            self.url = through(self._proxy, target.url)

    # Engines and witnesses

    @property
    def dialect(self) -> Backend:
        """The statements for the server."""
        return self.target.dialect

    def engine(self, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own options
        """Return a new engine of the pool under test; `options` are those of `create_engine`."""
        return self.engine_at(self.url, **options)

    def engine_on(self, file: Path, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own options
        """Return a new engine of the pool under test on a SQLite file; `options` are those of `create_engine`."""
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

    @staticmethod
    def token() -> str:
        """Return a text that occurs nowhere else."""
        return secrets.token_hex(8)

    def need_threads(self) -> None:
        """Skip the rest where connections are not for threads."""
        if self.inside_loop:
            raise Skip("an asyncio engine serves the tasks of an event loop, not threads")

    # Children

    def child(
        self,
        action: Callable[[], Any],
        *,
        how: How = "fork",
        leave: Leave = "os._exit",
        limit: float | None = None,
        starving: bool = False,
    ) -> Any:  # noqa: ANN401 - whatever the action returns, as JSON
        """Fork a child, let it run `action` and leave, wait for it, and return what `action` returned.

        The parent says nothing meanwhile, so any byte on its connections comes from the child: it is noted.

        Args:
            action: what the child does. Should it raise, the parent is told and the scenario ends there.
            how: `os.fork`; a C-level fork, of which Python learns nothing; or `multiprocessing`'s.
            leave: by `os._exit`, by `SystemExit`, by an exception (these two unwind the scenario's own frames
                in the child, `with` blocks included, and end in the finalization of the interpreter), or
                killed.
            limit: seconds until the child counts as hung.
            starving: the process is at its descriptor limit when it forks.

        """
        with self.silence():
            return self.start(action, how=how, leave=leave, limit=limit, starving=starving).wait()

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Note any byte that the children of this block send on connections which were open before it."""
        before = self._proxy.snapshot() if self._proxy else {}
        yield
        after = self._proxy.snapshot() if self._proxy else {}
        sent = {n: after[n].client_bytes - was.client_bytes for n, was in before.items()}
        loud = [n for n in before if sent[n]]
        ended = [n for n, was in before.items() if after[n].client_ended and not was.client_ended]
        if loud:
            self._heard(f"{sum(sent.values())} bytes were sent on {len(loud)} of the parent's connections")
        if ended:
            self._heard(f"the stream of {len(ended)} of the parent's connections was ended")

    def start(
        self,
        action: Callable[[], Any],
        *,
        how: How = "fork",
        leave: Leave = "os._exit",
        limit: float | None = None,
        starving: bool = False,
    ) -> Child:
        """Fork a child and return at once; see `child`."""
        self.forked = True
        limit = limit or self.seconds
        reading, writing = os.pipe()
        if how == "multiprocessing":

            def run() -> None:
                self._live(action, writing, limit)

            process = multiprocessing.get_context("fork").Process(target=run)
            process.start()
            pid = process.pid or 0
        else:
            with descriptor_limit() if starving else nullcontext():
                # PyDLL keeps the interpreter's lock across the call, or the child would have nobody to hand
                # it back.
                pid = os.fork() if how == "fork" else ctypes.PyDLL(None).fork()
                if pid == 0:
                    os.close(reading)
                    self._live(action, writing, limit, starving=starving)
                    _leave(leave)
        os.close(writing)
        return Child(pid, reading, limit, expected=_STATUS[leave])

    def _live(self, action: Callable[[], Any], writing: int, limit: float, *, starving: bool = False) -> None:
        """Be the child: run the recipe under test, then `action`, and answer."""
        self.depth += 1
        depth = self.depth
        self.noise = ""
        # By default the alarm kills, even inside a C library that waits for ever.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit + 1)
        answer: dict[str, Any] = {}
        try:
            if starving:  # there is no descriptor for an event loop
                answer["value"] = self._begin(action)
            else:
                answer["value"] = self.awaited(lambda: self._begin(action))
            if self.noise:
                answer["Lost"] = self.noise
        except (Lost, Hang, Skip) as finding:
            answer[type(finding).__name__] = str(finding)
        except Exception as error:
            if self.depth != depth:
                raise  # This is a child of that child, on its way out.
            answer["Lost"] = f"the child failed: {summary(error)}"
        os.write(writing, json.dumps(answer).encode() + b"\n")
        os.close(writing)

    def awaited(self, action: Callable[[], T]) -> T:
        """Let a child call `action` where its engines work: not in the parent's event loop, if there is one."""
        return loops.in_loop(action) if self.inside_loop else action()

    def _begin(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the action returns
        """Do first what the recipe under test tells children to do."""
        recipe = self.subject.in_child
        if recipe is not None:
            for engine in self.engines:
                if engine.dialect.is_async and not self.inside_loop:
                    loops.in_loop(partial(recipe, engine))
                else:
                    recipe(engine)
        return action()

    def _heard(self, noise: str) -> None:
        self.noise = self.noise or noise

    # What children do

    @staticmethod
    def is_refused(action: Callable[[], object]) -> bool:
        """Return whether `action` raised: any error at all is a refusal, the driver's own included."""
        try:
            action()
        except Exception:  # noqa: BLE001 - as it says
            return True
        return False

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

    # Limits

    @contextmanager
    def within(self, what: str, seconds: float | None = None) -> Iterator[None]:
        """Let the block take a step's time at most; if it hangs, the verdict is "`what` hung"."""
        depth = self.depth
        if depth == 0:
            self._report(what, seconds or self.seconds)
        try:
            yield
        finally:
            # A child that leaves by an exception passes here, too; it has nothing to report.
            if depth == self.depth == 0:
                self._report(None, None)

    def drop(self) -> None:
        """Forget every engine and collect garbage: what a process does that has no use for them."""
        self.engines.clear()
        gc.collect()

    def close(self) -> None:
        """End the recording proxy."""
        if self._proxy is not None:
            self._proxy.close()


class Child:
    """A forked child from its parent's point of view."""

    def __init__(self, pid: int, reading: int, limit: float, expected: int) -> None:
        self.pid = pid
        self._reading = reading
        self._limit = limit
        self._expected = expected
        self._deadline = time.monotonic() + limit

    def wait(self) -> Any:  # noqa: ANN401 - whatever the action returned, as JSON
        """Wait for the child's answer and its end; return the answer.

        Raises:
            Hang: it did neither in time; it is killed.
            Lost: it failed, or was killed by a signal.
        """
        answer = self._answer()
        status = self._status()
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise Hang(f"the child hung {'while it was leaving' if answer else 'at its work'} ({self._limit:.0f} s)")
        for kind in (Lost, Hang, Skip):
            if kind.__name__ in answer:
                raise kind(answer[kind.__name__])
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != -self._expected:
            raise Lost(f"the child was killed by {signal.Signals(os.WTERMSIG(status)).name}")
        code = os.waitstatus_to_exitcode(status)
        if not answer or code != self._expected:
            raise Lost(f"the child left with status {code} instead of {self._expected}")
        return answer.get("value")

    def _answer(self) -> dict[str, Any]:
        line = b""
        try:
            while not line.endswith(b"\n"):
                remaining = self._deadline - time.monotonic()
                if remaining <= 0 or not select.select([self._reading], [], [], remaining)[0]:
                    break
                piece = os.read(self._reading, 65536)
                if not piece:
                    break
                line += piece
        finally:
            os.close(self._reading)
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer

    def _status(self) -> int | None:
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            if time.monotonic() > self._deadline:
                return None
            time.sleep(_PAUSE)


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


@contextmanager
def descriptor_limit() -> Iterator[None]:
    """Let the block run at the limit: not one more descriptor can be opened.

    Every number below the limit is taken, so that all that is open stays below it: `dup2` refuses numbers
    above.
    """
    import resource  # noqa: PLC0415 - not on Windows, where this module is imported, too

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(_OPEN_DESCRIPTORS))  # noqa: PTH208 - plain names
    filling: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with suppress(OSError):
            while True:
                filling.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filling:
            os.close(descriptor)


def _leave(way: Leave) -> None:
    if way == "sys.exit":
        raise SystemExit(0)
    if way == "exception":
        raise UncaughtInChild
    if way == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)
