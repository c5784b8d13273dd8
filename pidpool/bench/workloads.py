"""The workloads: plain functions from a pool to a `Round`. Each runs alone in a fresh process."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from sqlalchemy import exc

from pidpool.bench import nothing
from pidpool.bench.errors import UnknownWorkload
from pidpool.bench.figures import fairness, percentiles
from pidpool.bench.rounds import Round
from pidpool.hazards.errors import Skip, summary

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from pidpool.bench.rounds import Load
    from pidpool.hazards import Subject

CHILD_SECONDS = 3.0
"""A child that takes longer to its first result hangs: it takes some milliseconds."""

_WARM_UP = 0.2  # of the duration: connections are opened, and CPython has specialised the code by then
_BATCH = 100  # operations between two looks at the clock, where a look would weigh


@dataclass(frozen=True)
class Site:
    """What a workload is given.

    Attributes:
        subject: the pool.
        url: the database, with its password; empty for workloads without one.
        session_id: the query for the server's number of a session.
        load: how hard to work it.
    """

    subject: Subject
    url: str = field(repr=False)
    session_id: str
    load: Load


Measure: TypeAlias = Callable[[Site], Round]


@dataclass(frozen=True)
class Workload:
    """One kind of work.

    Attributes:
        name: what the command line calls it.
        title: what it does, in a line.
        operation: what is counted, in the singular.
        needs_server: whether it works on a database.
        measure: does it, once.
    """

    name: str
    title: str
    operation: str
    needs_server: bool
    measure: Measure


WORKLOADS: dict[str, Workload] = {}
"""All of them, in the order in which they run."""


def workload(name: str) -> Workload:
    """Return the workload called `name`.

    Raises:
        UnknownWorkload: there is none; the message lists those that there are.
    """
    if name not in WORKLOADS:
        raise UnknownWorkload(f"unknown workload {name!r}; known are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def _enter(title: str, operation: str, *, needs_server: bool = True) -> Callable[[Measure], Measure]:
    def enter(measure: Measure) -> Measure:
        name = measure.__name__
        WORKLOADS[name] = Workload(name, title, operation, needs_server, measure)
        return measure

    return enter


@_enter("check out and in, without a database, one thread", "checkout", needs_server=False)
def checkout(site: Site) -> Round:
    """Measure the pool alone. Its time is the processor's, to which no other process adds."""
    take = _on_nothing(site).pool.connect
    seconds = site.load.duration
    _spin(take, _WARM_UP * seconds)
    before = nothing.Connection.opened
    operations, used = _spin(take, seconds)
    latencies = []
    end = time.monotonic() + _WARM_UP * seconds
    while time.monotonic() < end:
        for _ in range(_BATCH):
            started = time.perf_counter()
            take().close()
            latencies.append(time.perf_counter() - started)
    return Round(
        "done",
        operations=operations,
        seconds=used / operations,
        percentiles=percentiles(latencies),
        connects=nothing.Connection.opened - before,
    )


@_enter("engine.connect(), one SELECT, close, one thread", "query")
def query(site: Site) -> Round:
    """Ask for a number of its own each time, and look whether that is the answer."""
    teller = Teller(site.subject.build(site.url), site.session_id)
    _work(teller, _WARM_UP * site.load.duration)
    teller = Teller(teller.engine, site.session_id, known=teller.sessions)
    latencies, elapsed = _work(teller, site.load.duration)
    return Round(
        "done",
        operations=len(latencies),
        seconds=elapsed / len(latencies) if latencies else None,
        percentiles=percentiles(latencies),
        connects=len(teller.sessions - teller.known),
        wrong=teller.wrong,
        errors=teller.errors,
        detail=teller.detail,
    )


@_enter("many threads over few connections, without a database", "turn", needs_server=False)
def contended(site: Site) -> Round:
    """Measure how long threads stand in line, and whether each gets its share."""
    load = site.load
    pool = _on_nothing(site, pool_size=load.connections, max_overflow=0).pool
    for connection in [pool.connect() for _ in range(load.connections)]:
        connection.close()
    _spin(pool.connect, _WARM_UP * load.duration)
    before = nothing.Connection.opened
    queuers = [_Queuer(pool.connect, load.hold) for _ in range(load.threads)]
    start = threading.Barrier(load.threads + 1)
    threads = [threading.Thread(target=queuer.run, args=(start, load.duration), daemon=True) for queuer in queuers]
    for thread in threads:
        thread.start()
    start.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    operations = sum(queuer.turns for queuer in queuers)
    return Round(
        "done",
        operations=operations,
        seconds=elapsed / operations if operations else None,
        percentiles=percentiles(wait for queuer in queuers for wait in queuer.waits),
        connects=nothing.Connection.opened - before,
        wrong=sum(queuer.wrong for queuer in queuers),
        errors=sum(queuer.errors for queuer in queuers),
        timeouts=sum(queuer.timeouts for queuer in queuers),
        fairness=fairness([queuer.turns for queuer in queuers]),
        detail=next((queuer.detail for queuer in queuers if queuer.detail), ""),
    )


@_enter("from fork to the child's first result; the parent has idle connections", "child")
def fork(site: Site) -> Round:
    """Fork one child after the other. A child that works in a session of its parent's has only been lucky."""
    return _raise_children(site, at_once=1)


@_enter("many children at once, each with a query, while the parent works on", "child")
def storm(site: Site) -> Round:
    """Fork many children at once; what they share, they share at the same time."""
    return _raise_children(site, at_once=site.load.processes)


class Teller:
    """Asks the database for a number that nobody else asks for, and looks whether that is the answer."""

    def __init__(self, engine: Engine, session_id: str, known: frozenset[int] | set[int] = frozenset()) -> None:
        self.engine = engine
        self.sessions: set[int] = set()
        """The server's numbers of the sessions in which the answers came."""
        self.known = frozenset(known)
        self.wrong = 0
        self.errors = 0
        self.detail = ""
        self._query = session_id
        self._number = secrets.randbits(48) << 12  # far from that of any other process

    def ask(self) -> bool:
        """Ask once; return whether there was an answer, right or wrong."""
        self._number += 1
        try:
            with self.engine.connect() as connection:
                row = connection.exec_driver_sql(f"{self._query}, {self._number}").one()
        except Exception as error:  # noqa: BLE001 - whatever a pool or a driver says then is a result
            self.errors += 1
            self.detail = self.detail or summary(error)
            return False
        if len(row) != 2 or row[1] != self._number:  # noqa: PLR2004 - the columns asked for
            self.wrong += 1
            self.detail = self.detail or "an answer to another question"
        else:
            self.sessions.add(row[0])
        return True


class _Queuer:
    """One of many threads that want a connection."""

    def __init__(self, take: Callable[[], Any], hold: float | None) -> None:
        self.turns = 0
        self.waits: list[float] = []
        """How long it waited; without a hold, a sample: two looks at the clock would take as long as a turn."""
        self.wrong = self.errors = self.timeouts = 0
        self.detail = ""
        self._take = take
        self._hold = hold

    def run(self, start: threading.Barrier, seconds: float) -> None:
        """Take a connection, keep it for a while, give it back; and again."""
        start.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.perf_counter()
            try:
                taken = self._take()
                self.waits.append(time.perf_counter() - started)
                self._keep(taken)
                self.turns += 1
                if self._hold is None:
                    for _ in range(_BATCH):
                        self._take().close()
                    self.turns += _BATCH
            except exc.TimeoutError:
                self.timeouts += 1
            except Exception as error:  # noqa: BLE001 - whatever a pool says then is a result
                self.errors += 1
                self.detail = self.detail or summary(error)

    def _keep(self, taken: Any) -> None:  # noqa: ANN401 - whatever a pool hands out
        if self._hold is not None:
            connection = taken.cursor().connection
            self.wrong += connection.in_use
            connection.in_use = True
            time.sleep(self._hold)  # 0 as well: a query always lets other threads run
            connection.in_use = False
        taken.close()


def _raise_children(site: Site, at_once: int) -> Round:
    engine = site.subject.build(site.url, pool_size=site.load.inherited, max_overflow=0)
    parent = Teller(engine, site.session_id)
    held = [engine.connect() for _ in range(site.load.inherited)]
    own = {connection.exec_driver_sql(site.session_id).scalar_one() for connection in held}
    for connection in held:
        connection.close()

    nursery = _Nursery(site, engine, own)
    nursery.raise_some(at_once, parent)  # to warm up
    nursery = _Nursery(site, engine, own)
    end = time.monotonic() + site.load.duration
    started = time.perf_counter()
    while time.monotonic() < end and not nursery.hung:
        nursery.raise_some(at_once, parent)
    elapsed = time.perf_counter() - started
    latencies = nursery.latencies
    return Round(
        "done",
        operations=len(latencies),
        # One at a time, what counts is the way to the first result; many at a time, how many there are.
        seconds=(sum(latencies) if at_once == 1 else elapsed) / len(latencies) if latencies else None,
        percentiles=percentiles(latencies),
        connects=len((nursery.sessions | parent.sessions) - own),
        wrong=nursery.wrong + parent.wrong,
        shared=nursery.shared,
        errors=nursery.errors + parent.errors,
        hung=nursery.hung,
        detail=nursery.detail or parent.detail,
    )


class _Nursery:
    """Forks children that ask one question each, and hears what becomes of them."""

    def __init__(self, site: Site, engine: Engine, own: set[int]) -> None:
        self.latencies: list[float] = []
        self.sessions: set[int] = set()
        self.wrong = self.shared = self.errors = self.hung = 0
        self.detail = ""
        self._site = site
        self._engine = engine
        self._own = own

    def raise_some(self, count: int, parent: Teller) -> None:
        """Fork `count` children, ask a question in the parent as well, and wait for all of the answers."""
        reading, writing = os.pipe()
        born: dict[int, float] = {}
        for _ in range(count):
            started = time.perf_counter()
            pid = os.fork()
            if pid == 0:
                self._live(writing)
            born[pid] = started
        os.close(writing)
        if count > 1:
            parent.ask()  # at the same time as they
        self._hear(reading, born)
        os.close(reading)
        if count == 1:
            parent.ask()  # Is it unharmed?

    def _live(self, writing: int) -> NoReturn:
        teller = Teller(self._engine, self._site.session_id)
        try:
            if self._site.subject.in_child:
                self._site.subject.in_child(self._engine)
            teller.ask()
            message = {
                "pid": os.getpid(),
                "done": time.perf_counter(),  # the same clock in all processes of a machine
                "wrong": teller.wrong,
                "sessions": sorted(teller.sessions),
                "detail": teller.detail,
            }
        except BaseException as error:  # noqa: BLE001 - a child must not go on as its parent
            message = {"pid": os.getpid(), "wrong": 0, "sessions": [], "detail": summary(error)}
        # In one piece, as it is shorter than PIPE_BUF.
        os.write(writing, json.dumps(message).encode()[:400] + b"\n")
        os._exit(0)

    def _hear(self, reading: int, born: dict[int, float]) -> None:
        missing = dict(born)
        unread = b""
        deadline = time.monotonic() + CHILD_SECONDS
        while missing and (remaining := deadline - time.monotonic()) > 0:
            if not select.select([reading], [], [], remaining)[0]:
                break
            piece = os.read(reading, 65536)
            if not piece:
                break
            *lines, unread = (unread + piece).split(b"\n")
            for line in lines:
                message = json.loads(line)
                self._note(message, missing.pop(message["pid"]))
        for pid in missing:
            os.kill(pid, signal.SIGKILL)
            self.hung += 1
        for pid in born:
            os.waitpid(pid, 0)

    def _note(self, message: dict[str, Any], born: float) -> None:
        if not message["sessions"] and not message["wrong"]:
            self.errors += 1
        else:
            self.wrong += message["wrong"]
            self.latencies.append(message["done"] - born)
        sessions = set(message["sessions"])
        # A session that another child has had before is as inherited as one of the parent's.
        self.shared += bool(sessions & (self._own | self.sessions))
        self.sessions |= sessions
        self.detail = self.detail or message["detail"]


def _on_nothing(site: Site, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own
    engine = site.subject.build(nothing.URL, **options)
    if engine.dialect.name != nothing.Dialect.name:
        raise Skip(f"{site.subject.name} brings a database of its own, and this workload measures without one")
    return engine


def _spin(take: Callable[[], Any], seconds: float) -> tuple[int, float]:
    """Check out and in for so long; return how often, and the processor time that it took."""
    operations = 0
    end = time.monotonic() + seconds
    started = time.thread_time()
    while True:
        for _ in range(_BATCH):
            take().close()
        operations += _BATCH
        if time.monotonic() >= end:
            return operations, time.thread_time() - started


def _work(teller: Teller, seconds: float) -> tuple[list[float], float]:
    """Ask for so long; return how long each answer took, and all of them together."""
    latencies = []
    end = time.monotonic() + seconds
    started = time.perf_counter()
    while time.monotonic() < end:
        before = time.perf_counter()
        if teller.ask():
            latencies.append(time.perf_counter() - before)
    return latencies, time.perf_counter() - started
