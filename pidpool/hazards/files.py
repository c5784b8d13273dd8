"""A database without a server: SQLite's files."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, exc

from .catalogue import enters
from .errors import Lost, summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from .family import How, Leave
    from .stage import Stage

_JOURNALS = ("DELETE", "WAL")
_BUSY_SECONDS = 0.2
_WAYS: tuple[How, ...] = ("fork", "hookless")


@enters(
    "sqlite",
    needs="file",
    title="inherits an open SQLite file: idle, half read, or in a transaction",
    promise="COMMIT, and find every row; the file must stay whole",
    advice=(
        "With PidPool, fork while nothing is in use on the file: a child that may not open it gets "
        "InheritedConnectionError. Without it, close every connection to the file before you fork."
    ),
)
def sqlite(stage: Stage) -> None:
    """SQLite's locks belong to a process, and its memory of them does not.

    A child inherits libsqlite3's table of locks, but not the locks. With WAL it takes an idle connection's locks
    for its own, and a third process deletes the log under its hands: committed rows are gone. If it closes or
    frees a connection that is in a transaction, it plays the parent's journal back: the parent's COMMIT succeeds,
    and the rows are gone, or the file is damaged.
    """
    for journal in _JOURNALS:
        # aiosqlite has threads. Where one is just waiting for the interpreter's lock, the child of a C-level fork,
        # which does not renew it, can wait for it for ever: with any pool, and without one.
        for how in _WAYS[:1] if stage.inside_loop else _WAYS:
            _write_while_idle(stage, journal, how)
            _end_a_transaction(stage, journal, how)
        _end_a_half_read_insert(stage, journal)
        if not stage.inside_loop:  # where connections are for tasks, not for threads
            _end_another_threads_transaction(stage, journal)
    _end_exclusive_mode(stage)
    _write_beside_a_foreign_connection(stage)


class _File:
    """One database, and what must be found in it in the end."""

    def __init__(self, stage: Stage, journal: str) -> None:
        self.stage = stage
        self.journal = journal
        self.path = Path(stage.target.namespace) / stage.token()
        self.rows: set[str] = set()
        with closing(self.connect()) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("CREATE TABLE ledger (token TEXT)")

    def connect(self) -> sqlite3.Connection:
        """Open the file past every pool."""
        return sqlite3.connect(self.path, timeout=_BUSY_SECONDS)

    def engine(self) -> Engine:
        """Return an engine of the pool under test."""
        return self.stage.engine_on(self.path, connect_args={"timeout": _BUSY_SECONDS})

    def row(self) -> str:
        """Return a statement that stores a row which is to be found in the end."""
        token = self.stage.token()
        self.rows.add(token)
        return _insert(token)

    def crash(self) -> None:
        """Look from now on at what would be left, if every process that has it open died at this moment."""
        copy = self.path.with_suffix(".crashed")
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        self.path = copy

    def check(self, deed: str) -> None:
        """Raise Lost unless the file is whole and has every row."""
        deed = f"{deed}, {self.journal}"
        try:
            with closing(self.connect()) as connection:
                verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
                found = {row[0] for row in connection.execute("SELECT token FROM ledger")}
        except sqlite3.Error as error:
            raise Lost(f"the file cannot be read any more: {summary(error)} ({deed})") from error
        if verdict != "ok":
            raise Lost(f"the file is damaged: {verdict.splitlines()[0]} ({deed})")
        if self.rows - found:
            raise Lost(f"{len(self.rows - found)} of {len(self.rows)} committed rows are not in the file ({deed})")


def _insert(token: str) -> str:
    return f"INSERT INTO ledger VALUES ('{token}')"  # noqa: S608 - a token made here


def _store(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def _write_while_idle(stage: Stage, journal: str, how: How) -> None:
    """Parent and child write in turn; each believes that it is alone with what it holds."""
    file = _File(stage, journal)
    engine = file.engine()
    _store(engine, file.row())
    rows = file.row(), file.row()
    (told, tell), (answered, answer) = os.pipe(), os.pipe()

    def write_twice() -> None:
        os.close(answer)  # so that the parent's end, should it fail, is noticed
        with engine.connect() as connection:
            connection.exec_driver_sql(rows[0])
            connection.commit()
            os.write(tell, b".")
            os.read(answered, 1)
            connection.exec_driver_sql(rows[1])
            connection.commit()

    child = stage.start(write_twice, how=how)
    os.close(tell)
    with stage.within("the parent's engine.dispose()"):
        os.read(told, 1)
        engine.dispose()  # whoever closes a file last tidies up behind itself, as far as it knows
    with closing(file.connect()) as connection:
        connection.execute(file.row())
        connection.commit()
    os.close(answer)
    child.wait()
    for descriptor in (told, answered):
        os.close(descriptor)
    file.check("parent and child wrote in turn")


def _end_a_transaction(stage: Stage, journal: str, how: How) -> None:
    deeds: list[tuple[str, Callable[[Engine, list[Connection]], object], Leave]] = [
        ("used the pool", lambda engine, _: _store(engine, _insert("intruder")), "os._exit"),
        ("rolled back", lambda _, held: held[0].rollback(), "os._exit"),
        ("closed it", lambda _, held: held[0].close(), "os._exit"),
        ("dropped it", lambda _, held: _drop(held), "os._exit"),
        ("called engine.dispose()", lambda engine, _: engine.dispose(), "os._exit"),
        ("left by sys.exit", lambda _engine, _held: None, "sys.exit"),
    ]
    for deed, action, leave in deeds:
        file = _File(stage, journal)
        engine = file.engine()
        _store(engine, file.row())
        held = [engine.connect()]
        for _ in range(3):
            held[0].exec_driver_sql(file.row())
        refused = stage.child(partial(stage.is_refused, partial(action, engine, held)), how=how, leave=leave)
        deed = f"the child {deed} while the parent was in a transaction"  # noqa: PLW2901 - told in full
        if deed.startswith("the child used") and stage.subject.refuses and not refused:
            raise Lost(f"{deed}, and got no error")
        with stage.within(f"the parent's COMMIT ({deed})"):
            held[0].commit()
            held.pop().close()
        _store(engine, file.row())
        engine.dispose()
        file.check(deed)


def _drop(held: list[Any]) -> None:
    held.clear()
    gc.collect()


def _end_a_half_read_insert(stage: Stage, journal: str) -> None:
    """Such a statement commits when its last row is read, or its cursor is freed."""
    if sqlite3.sqlite_version_info < (3, 35):
        return
    file = _File(stage, journal)
    engine = file.engine()
    connection: Any = engine.raw_connection()
    connection.dbapi_connection.isolation_level = None
    rows = [file.row() for _ in range(5)]
    values = "), (".join(f"'{token}'" for token in file.rows)
    cursors = [connection.cursor(server_side=True) if stage.inside_loop else connection.cursor()]
    cursors[0].execute(f"INSERT INTO ledger VALUES ({values}) RETURNING token")  # noqa: S608 - tokens made here
    cursors[0].fetchone()

    deed = "the child dropped a half-read INSERT ... RETURNING"
    stage.child(lambda: _drop(cursors))
    with closing(file.connect()) as other, stage.within(f"another process's INSERT ({deed})"):
        try:
            other.execute(_insert("other"))
            raise Lost(f"the parent's statement was committed by the child ({deed}, {journal})")
        except sqlite3.OperationalError:
            pass  # locked, as it should be
    with stage.within(f"the parent's reading ({deed})"):
        if len(cursors.pop().fetchall()) != len(rows) - 1:
            raise Lost(f"the parent's result lost rows ({deed}, {journal})")
        connection.close()
    engine.dispose()
    file.check(deed)


def _end_another_threads_transaction(stage: Stage, journal: str) -> None:
    file = _File(stage, journal)
    engine = file.engine()
    local = threading.local()
    _store(engine, file.row())

    def begin() -> None:
        local.connection = engine.raw_connection()
        local.connection.cursor().execute(file.row())

    def commit() -> None:
        local.connection.commit()
        local.connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(begin).result()
        stage.child(lambda: stage.is_refused(lambda: _store(engine, _insert("intruder"))), leave="sys.exit")
        with stage.within("the COMMIT in the parent's thread"):
            thread.submit(commit).result()
    engine.dispose()
    file.check("the child was forked while another thread was in a transaction")


def _end_exclusive_mode(stage: Stage) -> None:
    file = _File(stage, "WAL")
    engine = file.engine()
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA locking_mode = EXCLUSIVE"))
    with engine.connect() as connection:
        connection.exec_driver_sql(file.row())
        connection.commit()
    deed = "the child called engine.dispose() with locking_mode=EXCLUSIVE"
    # It lies idle, and is the parent's alone all the same.
    stage.child(lambda: stage.is_refused(engine.dispose))
    with stage.within(f"the parent's COMMIT ({deed})"):
        _store(engine, file.row())
    file.crash()
    file.check(f"{deed}, and the parent crashed")


def _write_beside_a_foreign_connection(stage: Stage) -> None:
    """Somebody else's connection on the same file, of which the pool knows nothing."""
    file = _File(stage, "WAL")
    engine = file.engine()
    foreign = file.connect()
    foreign.execute(file.row())
    foreign.commit()
    row = stage.token()
    (told, tell), (answered, answer) = os.pipe(), os.pipe()

    def write_twice() -> bool:
        os.close(answer)
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM ledger").fetchall()
                connection.rollback()
                os.write(tell, b".")
                os.read(answered, 1)
                connection.exec_driver_sql(_insert(row))
                connection.commit()
        except exc.DBAPIError:
            raise
        except Exception:  # noqa: BLE001 - refused, by whatever error
            os.write(tell, b".")
            return False
        return True

    child = stage.start(write_twice)
    os.close(tell)
    with stage.within("the parent's close"):
        os.read(told, 1)
        foreign.close()
    with closing(file.connect()) as other:
        other.execute(file.row())
        other.commit()
    os.close(answer)
    if child.wait():
        file.rows.add(row)
    for descriptor in (told, answered):
        os.close(descriptor)
    file.check("the child wrote beside a connection that another part of the program had opened")
