"""What the scripts of this folder have in common. Each plays in a fresh process, with a file of its own."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.family import assert_quiet, script

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import RunScript

_PRELUDE = """
import contextlib, gc, os, sqlite3, sys, threading
from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool, StaticPool
from pidpool import InheritedConnectionError, PidNullPool, PidPool
from tests.family import child

PATH, POOL, *REST = sys.argv[1:]
POOL = globals()[POOL]
JOURNALS = ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL")

def engine_on(path=PATH, *, journal=None, pragmas=(), poolclass=None, **options):
    options.setdefault("connect_args", {"timeout": 0.2})
    engine = create_engine(f"sqlite:///{path}", poolclass=poolclass or POOL, **options)
    @event.listens_for(engine, "connect")
    def set_up(connection, _):
        for pragma in (*([f"journal_mode = {journal}"] if journal else []), *pragmas):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    return engine

def create(path=PATH, *rows):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE ledger (row)")
        connection.executemany("INSERT INTO ledger VALUES (?)", [(row,) for row in rows])
        connection.commit()

def store(engine, row):
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO ledger VALUES (?)", (row,))

def rows(path=PATH):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return sorted(row[0] for row in connection.execute("SELECT row FROM ledger"))

def seen(engine):
    with engine.connect() as connection:
        return sorted(row[0] for row in connection.exec_driver_sql("SELECT row FROM ledger"))

def refused(action, *words):
    try:
        action()
    except InheritedConnectionError as error:
        for word in words:
            assert word in str(error), str(error)
    else:
        raise AssertionError("not refused")

def no_harm(action):
    # for the controls, which may do their worst before they fail
    try:
        action()
    except Exception:
        pass
"""


class Play(Protocol):
    """The type of the fixture `play`."""

    def __call__(self, source: str, *args: str, pool: str = "PidPool") -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def play(run_script: RunScript, tmp_path: Path) -> Play:
    """Run a script, which knows a file, a pool class and a few words of its own."""

    def run(source: str, *args: str, pool: str = "PidPool") -> subprocess.CompletedProcess[str]:
        whole = script(_PRELUDE + textwrap.dedent(source))
        return run_script(whole, str(tmp_path / "database"), pool, *args, timeout=60)

    return run


def passes(done: subprocess.CompletedProcess[str]) -> None:
    """Fail unless the script ended well and printed nothing."""
    assert_quiet(done)


def fails(done: subprocess.CompletedProcess[str]) -> None:
    """Fail unless the script did: its pool is a control. A script that is wrong itself does not count."""
    assert done.returncode != 0, done
    for mistake in ("NameError", "SyntaxError", "ImportError", "TypeError", "AttributeError"):
        assert mistake not in done.stderr, done.stderr
