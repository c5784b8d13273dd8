"""What other threads of the parent have to do with it."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.orm import scoped_session, sessionmaker

from .catalogue import enters
from .errors import Hang, Lost, summary

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect

    from .stage import Stage

_THREADS = 3
_FORKS = 30


@enters(
    "other-thread",
    title="is forked while another thread keeps a connection in a thread-local or an ORM scoped_session",
    promise="COMMIT, and find its rows stored",
    advice=(
        "Nothing needs doing with PidPool. Without it there is nothing one could do in the child: it has "
        "happened before its first line runs. Fork before threads check connections out."
    ),
)
def other_thread(stage: Stage) -> None:
    """A thread-local of another thread is destroyed inside the fork.

    A worker thread keeps its connection in a `threading.local`, as scoped_session does. The main thread forks
    a child that does nothing whatever and ends by `os._exit`. Even so the thread's transaction is lost:
    Python destroys other threads' thread-locals inside `os.fork()`, before any at-fork hook, and the pool's
    finalizer rolls back.
    """
    stage.need_threads()
    engine = stage.engine()
    local = threading.local()
    registry = scoped_session(sessionmaker(engine))
    raw_row, session_row = stage.token(), stage.token()

    def check_out() -> None:
        local.connection = engine.raw_connection()
        local.connection.cursor().execute(stage.dialect.store(raw_row))
        registry.execute(text(stage.dialect.store(session_row)))

    def commit() -> None:
        local.connection.commit()
        registry.commit()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(check_out).result()
        stage.child(lambda: None)
        with stage.within("the COMMIT in the parent's thread"):
            thread.submit(commit).result()
    for row, where in ((raw_row, "a thread-local"), (session_row, "a scoped_session")):
        stored = stage.stored(row)
        if stored != 1:
            raise Lost(f"a thread's COMMIT succeeded and stored {stored} of 1 rows (it kept {where})")


@enters(
    "lock-held",
    title="is forked while threads check connections out and in",
    promise="go on; the child must answer",
    advice=(
        "Nothing needs doing with PidPool: it takes no lock in a child that another thread may have held. "
        "Without it, fork before threads start, or create the engine in the child."
    ),
)
def lock_held(stage: Stage) -> None:
    """A lock that another thread holds at fork stays locked in the child for ever.

    Pools guard their queues with locks, and SQLAlchemy the first connect of an engine. A fork copies a lock
    in the state in which it is, but not the thread that would release it. The child's first checkout waits
    for ever.
    """
    stage.need_threads()
    _fork_inside_first_connect(stage)
    engine = stage.engine()
    between_connects = _keep_forks_out_of_connect(engine)
    stage.use(engine)
    stop = threading.Event()
    interval = sys.getswitchinterval()

    def hammer() -> None:
        while not stop.is_set():
            engine.raw_connection().close()

    with ThreadPoolExecutor(_THREADS) as threads:
        # Threads change places as often as possible, so that forks find them in every place.
        sys.setswitchinterval(1e-6)
        hammering = [threads.submit(hammer) for _ in range(_THREADS)]
        try:
            for _ in range(_FORKS):
                with between_connects:
                    child = stage.start(lambda: stage.use(engine))
                child.wait()
        finally:
            stop.set()
            sys.setswitchinterval(interval)
    for thread in hammering:
        error = thread.exception()
        if error is not None:
            raise Lost(f"a thread of the parent failed while children were forked: {summary(error)}")


def _keep_forks_out_of_connect(engine: Engine) -> threading.RLock:
    """Return a lock under which no thread is inside the driver's `connect`.

    OpenSSL and the resolver have locks of their own, in C, which a fork leaves locked just the same. No pool can
    help there, and this scenario is about the pool's. A child is the thread that forked: it may pass.
    """
    gate = threading.RLock()

    def connect(dialect: Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> DBAPIConnection:
        with gate:
            return dialect.connect(*arguments, **options)

    event.listen(engine, "do_connect", connect)
    return gate


def _fork_inside_first_connect(stage: Stage) -> None:
    engine = stage.engine()
    entered, resume = threading.Event(), threading.Event()

    def hold_up(*_: object) -> None:
        if not entered.is_set():
            entered.set()
            resume.wait()

    event.listen(engine, "connect", hold_up)
    with ThreadPoolExecutor(1) as thread:
        connecting = thread.submit(stage.use, engine)
        try:
            entered.wait(stage.seconds)
            stage.start(lambda: stage.use(engine)).wait()
        except Hang as hang:
            raise Hang(f"{hang}: a thread of the parent was opening the first connection") from hang
        finally:
            resume.set()
        connecting.result()


@enters(
    "capacity",
    title="is forked while every connection is out",
    promise="keep them; the child must be able to check out its full capacity",
    advice="Nothing needs doing with PidPool. Without it the child needs an engine of its own.",
)
def capacity(stage: Stage) -> None:
    """Connections that are out at fork never come back in the child.

    Each connection that is checked out at the moment of the fork is counted as out in the child as well,
    where nobody will ever return it. If all of them were, the child waits for its pool until the time-out,
    each time.
    """
    witness = stage.witness(idle=0)
    with stage.within("the parent's checkout"):
        out = [witness.engine.connect() for _ in range(witness.capacity - 1)]
    _check_out_everything(stage, witness.engine, witness.capacity)
    for connection in out:
        connection.close()
    witness.finish("the child checked out its connections")


def _check_out_everything(stage: Stage, engine: Engine, count: int) -> None:
    try:
        sessions = stage.child(lambda: stage.use(engine, count))
    except Lost as lost:
        raise Lost(f"the child could not check out {count} connections: {lost}") from lost
    if len(set(sessions)) != count:
        raise Lost(f"the child got {len(set(sessions))} different sessions instead of {count}")
