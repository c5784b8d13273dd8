"""What every forking program does sooner or later."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.orm import Session

from .backends import scalar
from .catalogue import enters
from .errors import Lost
from .family import LEFT_TO_FINALIZATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from .family import How, Leave
    from .stage import Stage

_QUERIES = 30
_AWAITING = ("asyncpg", "psycopg_async", "aiomysql", "asyncmy")


@enters(
    "concurrent-use",
    title="and the parent both query",
    promise="read only its own rows",
    advice=(
        "Give every process connections of its own: PidPool does so at the first checkout after a fork. "
        "Without it, create the engine after the fork."
    ),
)
def concurrent_use(stage: Stage) -> None:
    """Two processes share one socket.

    An engine is created when the program starts, and has been used once before it forks its workers. Parent
    and child now hold the same socket. Both send queries, and each reads whichever answer comes first: rows
    of the other's query, half a packet, or nothing at all.
    """
    witness = stage.witness(hold=False, idle=1)
    engine = witness.engine

    def query() -> list[int]:
        return [session for _ in range(_QUERIES) for session in stage.use(engine)]

    child = stage.start(query)
    with stage.within("the parent's query, while the child queried, too,"):
        try:
            query()
        except Lost as lost:
            raise Lost(f"in the parent, {lost}") from lost
    if witness.pooled & set(child.wait()):
        raise Lost("the child queried on the parent's session")
    witness.finish("the child and the parent both queried")


@enters(
    "gc",
    title="collects garbage",
    promise="keep its session",
    advice=(
        "Nothing needs doing with PidPool. Without it, a child must not let go of an inherited connection "
        "or engine, not even by leaving a function, until it ends by os._exit."
    ),
    # psycopg looks at the PID itself before it says goodbye, and asyncio has no rollback in a finalizer.
    controls={"*": "queuepool", "psycopg_async": "queuepool+dispose"},
)
def garbage_collection(stage: Stage) -> None:
    """Merely letting go of a connection speaks to the server.

    The child never touches the database. It merely lets go of what it inherited: a function returns, a
    request object dies, the garbage collector runs. The pool's finalizer then rolls back on the shared
    socket, and some drivers say goodbye to the server.
    """
    witness = stage.witness()
    stage.child(witness.drop_held)
    witness.check("the child dropped the connection it inherited")
    stage.child(witness.drop)
    witness.finish("the child dropped the engine it inherited")


@enters(
    "exit",
    title="leaves by sys.exit, an uncaught exception, os._exit, or a multiprocessing return",
    promise="keep its session",
    advice="Nothing needs doing with PidPool. Without it, end children by os._exit.",
    # No finalizer of SQLAlchemy's can await a rollback, and no loop is left to hear of it.
    controls={"*": "queuepool"} | dict.fromkeys(_AWAITING, "queuepool+dispose"),
)
def interpreter_exit(stage: Stage) -> None:
    """Python tidies up before it goes, connections included.

    The child never touches the database and ends. Before Python goes it finalizes what is left, connections
    included, and the server hears a rollback or a goodbye that was not the parent's.
    """
    witness = stage.witness()
    # Without a cycle in it, unlike an SQLAlchemy Connection: gone as soon as the last frame that knows it is
    # left.
    raw = witness.engine.raw_connection()
    row = stage.token()
    raw.cursor().execute(stage.dialect.store(row))
    ways: list[tuple[str, How, Leave]] = [
        ("os._exit", "fork", "os._exit"),
        ("a multiprocessing return", "multiprocessing", "os._exit"),
        ("sys.exit", "fork", "sys.exit"),
        ("an uncaught exception", "fork", "exception"),
    ]
    for way, how, leave in ways:
        # Once by falling out of the last frame that knows it, once as a global that dies with its module.
        stage.child(lambda: None, how=how, leave=leave)
        witness.check(f"the child left by {way}")
        stage.child(lambda: LEFT_TO_FINALIZATION.append(witness), how=how, leave=leave)
        witness.check(f"the child left by {way}, the connection in a global")
    with stage.within("the parent's COMMIT"):
        raw.commit()
        raw.close()
    if stage.stored(row) != 1:
        raise Lost("the parent's COMMIT succeeded and stored 0 of 1 rows (children left)")
    witness.finish("children left")


@enters(
    "dispose",
    title="calls engine.dispose(), and dispose(close=False)",
    promise="keep its session",
    advice=(
        "Neither call is needed with PidPool, and neither does harm. With QueuePool never call dispose() in"
        " a child; dispose(close=False) is better, but drivers that say goodbye in their finalizer "
        "(mysqlclient) still do."
    ),
)
def dispose(stage: Stage) -> None:
    """The recipe from the manual closes the parent's connections.

    The manual says that a child should start with engine.dispose(close=False); many programs have plain
    dispose(). Plain dispose closes the parent's connections for it. With close=False the pool forgets them,
    and the garbage collector closes what it forgot.
    """
    witness = stage.witness()

    def leave_it(*, close: bool) -> None:
        witness.engine.dispose(close=close)
        stage.use(witness.engine)
        gc.collect()

    def leave_and_drop() -> None:
        leave_it(close=False)
        witness.drop()

    stage.child(lambda: leave_it(close=True))
    witness.check("the child called engine.dispose()")
    stage.child(lambda: leave_it(close=False))
    witness.check("the child called engine.dispose(close=False)")
    stage.child(leave_and_drop, leave="sys.exit")
    witness.finish("the child called engine.dispose(close=False), and ended")


@enters(
    "explicit-close",
    title="closes, invalidates or rolls back what it inherited",
    promise="keep its session",
    advice=(
        "With PidPool these calls do nothing in a child, as clean-up code in `finally` needs it. Without "
        "it, leave inherited connections alone."
    ),
)
def explicit_close(stage: Stage) -> None:
    """Clean-up code does its duty on somebody else's connection.

    Clean-up code runs in the child: a `finally` closes the connection, an error handler rolls back or
    invalidates it, a framework ends the request. All of it was meant for the parent's connection, and goes to
    the parent's session.
    """
    engine = stage.engine()
    detached = engine.connect()
    detached.detach()
    session = scalar(detached, stage.dialect.session_id)
    witness = stage.witness(engine)
    held = witness.held
    for deed, action in (("rollback", held.rollback), ("invalidate", held.invalidate), ("close", held.close)):
        stage.child(action)
        witness.check(f"the child called {deed}() on the connection it inherited")
    stage.child(detached.close)
    with stage.within("the parent's query on its detached connection"):
        if scalar(detached, stage.dialect.session_id) != session:
            raise Lost("the parent's detached connection has another session (the child closed it)")
        detached.close()
    witness.finish("the child closed what it inherited")


@enters(
    "open-transaction",
    title="leaves `with engine.begin()` by an exception or sys.exit",
    promise="COMMIT, and find its rows stored",
    advice=("With PidPool leaving the block does nothing in a child. Without it, never fork inside a transaction."),
)
def open_transaction(stage: Stage) -> None:
    """A block that was entered once is left twice.

    The fork happens inside a `with engine.begin()` block, often deep down in a library. The child fails or
    exits, and on its way out the block rolls back: on the parent's session. The parent's COMMIT then
    succeeds, and stores nothing.
    """
    engine = stage.engine()
    ways: list[tuple[str, Leave]] = [("an exception", "exception"), ("sys.exit", "sys.exit")]
    for way, leave in ways:
        rows = stage.token(), stage.token()
        with stage.within("the parent's COMMIT"), engine.begin() as connection:
            connection.exec_driver_sql(stage.dialect.store(rows[0]))
            stage.child(lambda: None, leave=leave)
        with (
            stage.within("the COMMIT of the parent's ORM session"),
            Session(engine) as session,
            session.begin(),
        ):
            session.execute(text(stage.dialect.store(rows[1])))
            stage.child(lambda: None, leave=leave)
        for row in rows:
            stored = stage.stored(row)
            if stored != 1:
                raise Lost(f"the parent's COMMIT succeeded and stored {stored} of 1 rows (the child left by {way})")


@enters(
    "held-use",
    title="executes or commits on the inherited connection, Session or cursor",
    promise="see nothing of it; with PidPool the child gets InheritedConnectionError",
    advice=("Check out a new connection after the fork. PidPool raises InheritedConnectionError where you forgot."),
)
def held_use(stage: Stage) -> None:
    """An inherited connection works, for a while.

    A connection, an ORM session or a cursor that was opened before the fork is used in the child as if it
    were its own. It works, for a while: inside the parent's transaction, on the parent's session.
    """
    witness = stage.witness()
    session = Session(bind=witness.held)
    cursor = witness.held.connection.cursor()
    intruder = stage.dialect.store(witness.token)
    deeds: dict[str, Callable[[], object]] = {
        "executed on the parent's connection": lambda: witness.held.exec_driver_sql(intruder),
        "committed the parent's transaction": witness.held.commit,
        "executed in the parent's ORM session": lambda: session.connection().exec_driver_sql(intruder),
        "opened a cursor on the parent's connection": lambda: witness.held.connection.cursor().execute(intruder),
        "executed on the parent's cursor": lambda: cursor.execute(intruder),
    }
    for deed, action in deeds.items():
        refused = stage.child(partial(stage.is_refused, action))
        witness.check(f"the child {deed}")
        if stage.subject.refuses and not refused:
            raise Lost(f"the child {deed}, and got no error")
    witness.finish("the child used what it inherited")
