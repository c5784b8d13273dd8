"""What a session carries besides its transaction."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .backends import scalar
from .catalogue import enters
from .errors import Lost

if TYPE_CHECKING:
    from collections.abc import Callable

    from .family import Leave
    from .stage import Stage

_ROWS = 20_000
_SOME = 100


@enters(
    "mid-stream",
    title="is forked while a server-side or unbuffered result is half read",
    promise="read the rest",
    advice="Nothing needs doing with PidPool. Without it, finish or close results before you fork.",
)
def mid_stream(stage: Stage) -> None:
    """A half-read result is closed, or even read on, by the child.

    A large result is streamed: the server sends rows as they are read. The child inherits the open cursor.
    When it lets go of it, the driver closes the cursor on the server, or reads the remaining rows from the
    shared socket to get rid of them. A thread that keeps its result in a `threading.local` loses it to a child
    that does nothing at all, because Python frees other threads' thread-locals inside the fork.
    """
    if not stage.inside_loop:  # an asyncio connection is not for other threads
        _stream_in_another_thread(stage)
    stream: dict[str, Any] = _stream(stage)
    numbers = [row[0] for row in stream["result"].fetchmany(_SOME)]

    def drop() -> None:
        stream.clear()
        gc.collect()

    deeds: list[tuple[str, Callable[[], object], Leave]] = [
        ("left by sys.exit", lambda: None, "sys.exit"),
        ("closed the result", lambda: stage.is_refused(stream["result"].close), "os._exit"),
        ("closed the connection", lambda: stage.is_refused(stream["connection"].close), "os._exit"),
        ("dropped both", drop, "os._exit"),
    ]
    for deed, action, leave in deeds:
        stage.child(action, leave=leave)
        with stage.within(f"the parent's reading (the child {deed})"):
            numbers += [row[0] for row in stream["result"].fetchmany(_SOME)]
    with stage.within("the parent's reading"):
        numbers += [row[0] for row in stream["result"]]
    _expect_all(numbers)
    stream["connection"].close()


def _stream(stage: Stage) -> dict[str, Any]:
    connection = stage.engine().connect()
    options = {"stream_results": True, "max_row_buffer": _SOME}
    result = connection.execution_options(**options).exec_driver_sql(stage.dialect.numbers(_ROWS))
    return {"connection": connection, "result": result}


def _stream_in_another_thread(stage: Stage) -> None:
    local = threading.local()

    def begin() -> list[int]:
        local.stream = _stream(stage)
        return [row[0] for row in local.stream["result"].fetchmany(_SOME)]

    def finish() -> list[int]:
        numbers = [row[0] for row in local.stream["result"]]
        local.stream["connection"].close()
        return numbers

    with ThreadPoolExecutor(1) as thread:
        numbers = thread.submit(begin).result()
        stage.child(lambda: None)
        with stage.within("the reading of the parent's other thread"):
            numbers += thread.submit(finish).result()
    _expect_all(numbers)


def _expect_all(numbers: list[int]) -> None:
    if sorted(numbers) != list(range(1, _ROWS + 1)):
        raise Lost(f"the parent read {len(set(numbers))} of {_ROWS} rows")


@enters(
    "prepared",
    title="drops inherited cursors and prepared statements",
    promise="go on using them",
    advice="Nothing needs doing with PidPool. Without it, do not touch inherited cursors in a child.",
)
def prepared(stage: Stage) -> None:
    """A prepared statement belongs to the session, not to the process.

    Clean-up code in the child closes the cursors it inherited and forgets prepared statements. The server
    forgets them, too, and the parent's next execution fails.
    """
    witness = stage.witness()
    name = f"pidpool_{witness.token}"
    cursors = [witness.held.connection.cursor()]

    def run_driver_statement() -> object:
        # psycopg prepares by itself, if told so; asyncpg and ODBC always; to the others this is an ordinary query.
        options = {"prepare": True} if stage.driver == "psycopg" else {}
        placeholder = {"asyncpg": "$1", "pyodbc": "?"}.get(stage.driver, "%s")
        cursors[0].execute(f"SELECT 40 + {placeholder}", (2,), **options)
        return (cursors[0].fetchone() or [None])[0]

    def run_prepared() -> object:
        if stage.driver == "pyodbc":  # prepares what may return rows, and EXECUTE cannot be prepared; see the cursor
            return 42
        *before, execution = stage.dialect.execute_prepared(name, 41)
        for statement in before:
            witness.held.exec_driver_sql(statement)
        return scalar(witness.held, execution)

    def forget() -> None:
        stage.is_refused(lambda: witness.held.exec_driver_sql(stage.dialect.deallocate(name)))
        stage.is_refused(cursors.pop().close)
        witness.drop()

    witness.held.exec_driver_sql(stage.dialect.prepare(name))
    run_driver_statement()
    stage.child(forget)
    for what, action in (("prepared statement", run_prepared), ("cursor", run_driver_statement)):
        with stage.within(f"the parent's {what}"):
            answer = action()
        if answer != 42:  # noqa: PLR2004 - 41 + 1, and 40 + 2
            raise Lost(f"the parent's {what} answered {answer!r} instead of 42")
    witness.finish("the child dropped cursors and prepared statements")


@enters(
    "session-state",
    title="does any of the above",
    promise="find its temporary tables, SET variables and advisory locks",
    advice="Nothing needs doing with PidPool. Without it, create the engine after the fork.",
)
def session_state(stage: Stage) -> None:
    """What a session has built up is gone when the session is.

    A session that was closed behind the parent's back is replaced by a new one, and many pools do that
    without a word. The new one has no temporary table, no variable, no lock: whatever the program believed to
    hold is free for others.
    """
    witness = stage.witness()

    def do_everything() -> None:
        stage.use(witness.engine)
        witness.held.close()
        witness.engine.dispose()
        stage.use(witness.engine)
        witness.drop()

    stage.child(do_everything, leave="sys.exit")
    witness.finish("the child used, closed and dropped what it inherited")
