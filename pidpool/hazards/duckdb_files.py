"""A database without a server: DuckDB's files."""

from __future__ import annotations

import gc
import shutil
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backends import rows_of
from .catalogue import enters
from .errors import Hang, Lost, summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from .family import How, Leave
    from .stage import Stage

_WAYS: tuple[How, ...] = ("fork", "hookless")
_MANY = "SELECT * FROM range(10000000)"  # so many that they are not all read at once
_INTRUDER = "intruder"


@enters(
    "duckdb",
    needs="duckdb",
    title="inherits an open DuckDB file: idle, half read, or in a transaction",
    promise="COMMIT, and find every row, also after a crash",
    advice=(
        "Close every connection to the file before you fork: engine.dispose(), or PidPool's close_before_fork. With "
        "PidPool a child that inherits an open file gets InheritedConnectionError, and the file is safe."
    ),
)
def duckdb(stage: Stage) -> None:
    """DuckDB's lock on a file belongs to a process, and its memory of the open file does not.

    A child inherits the open database: the data as they were, the log, but no lock and no threads. If it closes or
    frees a connection, or just exits, it folds the log into the file and deletes it. What the parent commits from now
    on goes into the deleted log: the parent still sees its rows, and a crash loses them. If the child opens the file,
    it gets the inherited database, and both write over each other's rows. Or it waits for threads that are not there.
    """
    for how in _WAYS:
        _leave_idle(stage, how)
        _end_a_transaction(stage, how)
    _drop_a_half_read_result(stage)
    _end_another_threads_transaction(stage)
    _fork_again(stage)


class _File:
    """One database, and what must be found in it at any time."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.path = Path(stage.target.namespace) / f"{stage.token()}.duckdb"
        self.rows: set[str] = set()
        self.engine: Engine = stage.engine_on(self.path)
        with self.engine.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE ledger (token VARCHAR)")
            connection.commit()
            # From here on what is stored is in the log alone, until that is folded into the file.
            connection.exec_driver_sql("CHECKPOINT")
            connection.rollback()

    def row(self) -> str:
        """Return a statement that stores a row which is to be found in the end."""
        token = self.stage.token()
        self.rows.add(token)
        return _insert(token)

    def store(self) -> None:
        """Store such a row."""
        _store(self.engine, self.row())

    def check(self, deed: str) -> None:
        """Raise Lost unless the file would have every row, if every process that has it open died at this moment.

        The parent itself would still see rows that are lost, and store them once more if it closed the file politely.
        """
        import duckdb as driver  # noqa: PLC0415 - optional

        copy = self.path.with_suffix(f".{self.stage.token()}")
        for suffix in ("", ".wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        try:
            with closing(driver.connect(str(copy))) as connection:
                found = {token for (token,) in connection.execute("SELECT token FROM ledger").fetchall()}
        except driver.Error as error:
            raise Lost(f"the file cannot be read after a crash: {summary(error)} ({deed})") from error
        lost = len(self.rows - found)
        if lost:
            raise Lost(f"{lost} of {len(self.rows)} committed rows are not in the file after a crash ({deed})")
        if found - self.rows:
            raise Lost(f"{len(found - self.rows)} rows are in the file that nobody committed ({deed})")

    def try_to_store(self) -> bool:
        """Be a child that stores a row; return whether it was refused."""
        return self.stage.is_refused(partial(_store, self.engine, _insert(_INTRUDER)))

    def admit(self, *, in_use: bool = True) -> None:
        """Expect the row of a child that was not refused, in the file and wherever one looks."""
        if in_use and self.stage.subject.refuses:
            raise Lost("the child used the pool while the parent had the file open, and got no error")
        self.rows.add(_INTRUDER)
        with self.engine.connect() as connection:
            if (_INTRUDER,) not in rows_of(connection, "SELECT token FROM ledger"):
                raise Lost("the child stored a row, and the parent does not see it")


def _insert(token: str) -> str:
    return f"INSERT INTO ledger VALUES ('{token}')"  # noqa: S608 - a token made here


def _store(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def _drop(held: list[Any]) -> None:
    held.clear()
    gc.collect()


def _failure(stage: Stage, action: Callable[[], object], how: How = "fork", leave: Leave = "os._exit") -> str:
    """Let a child do it, and return how it failed, if it did: what became of the parent's rows is told before that."""
    try:
        stage.child(partial(stage.is_refused, action), how=how, leave=leave)
    except (Lost, Hang) as failure:
        return str(failure)
    return ""


def _is_refused(file: _File, how: How = "fork", leave: Leave = "os._exit") -> bool:
    """Return whether a child that uses the pool gets an error; or goes under, with a pool that promises no error."""
    try:
        return bool(file.stage.child(file.try_to_store, how=how, leave=leave))
    except (Lost, Hang):
        if file.stage.subject.refuses:
            raise
        return True


def _leave_idle(stage: Stage, how: How) -> None:
    file = _File(stage)
    deeds: list[tuple[str, Callable[[], object], Leave]] = [
        ("called engine.dispose()", file.engine.dispose, "os._exit"),
        ("left by sys.exit", lambda: None, "sys.exit"),
    ]
    for deed, action, leave in deeds:
        deed = f"the child {deed} while the parent was idle"  # noqa: PLW2901 - told in full
        file.store()
        failure = _failure(stage, action, how, leave)
        _go_on(file, deed, failure)
    if not _is_refused(file, how):  # a pool that keeps nothing idle leaves the file free
        file.admit(in_use=False)
    _go_on(file, "the child used the pool while the parent was idle")


def _go_on(file: _File, deed: str, failure: str = "") -> None:
    """Be the parent, which stores another row and must find them all."""
    with file.stage.within(f"the parent's COMMIT ({deed})"):
        file.store()
        file.check(deed)
    if failure:
        raise Lost(f"{failure} ({deed})")


def _end_a_transaction(stage: Stage, how: How) -> None:
    file = _File(stage)
    deeds: list[tuple[str, Callable[[Engine, list[Connection]], object], Leave]] = [
        ("rolled back", lambda _, held: held[0].rollback(), "os._exit"),
        ("closed it", lambda _, held: held[0].close(), "os._exit"),
        ("dropped it", lambda _, held: _drop(held), "os._exit"),
        ("called engine.dispose()", lambda engine, _: engine.dispose(), "os._exit"),
        ("left by sys.exit", lambda _engine, _held: None, "sys.exit"),
    ]
    for deed, action, leave in deeds:
        deed = f"the child {deed} while the parent was in a transaction"  # noqa: PLW2901 - told in full
        held = [file.engine.connect()]
        held[0].exec_driver_sql(file.row())
        failure = _failure(stage, partial(action, file.engine, held), how, leave)
        refused = _is_refused(file, how)
        with stage.within(f"the parent's COMMIT ({deed})"):
            held[0].commit()
            held.pop().close()
        if not refused:
            file.admit()
        _go_on(file, deed, failure)


def _drop_a_half_read_result(stage: Stage) -> None:
    file = _File(stage)
    file.store()
    connection = file.engine.raw_connection()
    cursors: list[Any] = [connection.cursor()]
    cursors[0].execute(_MANY)
    cursors[0].fetchone()
    deed = "the child dropped a half-read result"
    failure = _failure(stage, lambda: _drop(cursors))
    with stage.within(f"the parent's reading ({deed})"):
        if cursors[0].fetchone() != (1,):
            raise Lost(f"the parent's result lost rows ({deed})")
        cursors.pop().close()
        connection.close()
    _go_on(file, deed, failure)


def _end_another_threads_transaction(stage: Stage) -> None:
    file = _File(stage)
    begun, finish = threading.Event(), threading.Event()
    local = threading.local()

    def work() -> None:
        local.connection = file.engine.connect()
        local.connection.exec_driver_sql(file.row())
        begun.set()
        finish.wait()
        local.connection.commit()
        local.connection.close()

    deed = "the child was forked while another thread was in a transaction"
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with stage.within("a thread's first query"):
        begun.wait()
    refused = _is_refused(file, leave="sys.exit")
    failure = _failure(stage, file.engine.dispose)
    with stage.within(f"the COMMIT in the parent's thread ({deed})"):
        finish.set()
        thread.join()
    if not refused:
        file.admit()
    _go_on(file, deed, failure)


def _fork_again(stage: Stage) -> None:
    file = _File(stage)
    file.store()

    # The parent has it open, so that it is in a child's way, whatever the pool keeps.
    held = [file.engine.connect()]
    rows_of(held[0], "SELECT token FROM ledger")

    def live() -> bool:
        refused = bool(stage.child(file.try_to_store))
        stage.child(held[0].close)
        stage.child(file.engine.dispose)
        return refused

    if not stage.child(live):
        file.admit()
    held.pop().close()
    _go_on(file, "the child forked again")
