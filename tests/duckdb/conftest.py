"""What the scripts of this folder have in common. Each plays in a fresh process, with a file of its own."""

from __future__ import annotations

import textwrap
from itertools import count
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.family import assert_quiet, script

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import RunScript

_PRELUDE = """
import contextlib, gc, os, shutil, signal, sys, threading, warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)
import duckdb
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool, QueuePool
from pidpool import InheritedConnectionError, PerProcess, PidNullPool, PidPool
from pidpool.errors import InheritedFileError
from tests import family

PATH, POOL, *REST = sys.argv[1:]
POOL = globals()[POOL]

def child(action=lambda: None, *, limit=20, **options):
    # what hangs does so inside a library that listens to no signal of Python's
    def limited():
        signal.alarm(limit)
        action()
    family.child(limited, **options)

def engine_on(path=PATH, *, poolclass=None, **options):
    return create_engine(f"duckdb:///{path}", poolclass=poolclass or POOL, **options)

def create(engine, *rows):
    # what is checkpointed is in the file itself, and what is stored from now on is only in the log
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE ledger (row BIGINT)")
        connection.commit()
        connection.connection.driver_connection.execute("CHECKPOINT")
    for row in rows:
        store(engine, row)

def store(engine, row):
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO ledger VALUES ({row})")

def seen(engine):
    with engine.connect() as connection:
        return sorted(row for (row,) in connection.exec_driver_sql("SELECT row FROM ledger"))

def rows(path):
    with contextlib.closing(duckdb.connect(str(path))) as connection:
        return sorted(row for (row,) in connection.execute("SELECT row FROM ledger").fetchall())

copies = 0

def after_a_crash(path=PATH):
    # what would be left if every process that has the file open died now; those that live see more
    global copies
    copies += 1
    copy = f"{path}.crashed{copies}"
    for suffix in ("", ".wal"):
        if os.path.exists(path + suffix):
            shutil.copy(path + suffix, copy + suffix)
    return rows(copy)

def refused(action, *words):
    try:
        action()
    except InheritedConnectionError as error:
        for word in words:
            assert word in str(error), str(error)
    else:
        raise AssertionError("not refused")

def refused_by_either(action, *words):
    # duckdb 1.4 takes a symlink for another file, and then finds it locked
    try:
        refused(action, *words)
    except Exception as error:
        assert "Could not set lock" in str(error), error

def no_harm(action):
    # for the controls, which may do their worst before they fail
    try:
        action()
    except Exception:
        pass
"""


#: What pidpool must not do: pin what was inherited, and let the child open the file beside it.
PIN_ONLY = """
from pidpool import _duckdb
_duckdb.Inheritance.receive = _duckdb.Inheritance.judge = lambda *_: None
"""


class Play(Protocol):
    """The type of the fixture `play`."""

    def __call__(self, source: str, *args: str, pool: str = "PidPool") -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def play(run_script: RunScript, tmp_path: Path) -> Play:
    """Run a script, which knows a file, a pool class and a few words of its own."""
    pytest.importorskip("duckdb_engine")
    numbers = count(1)

    def run(source: str, *args: str, pool: str = "PidPool") -> subprocess.CompletedProcess[str]:
        whole = script(_PRELUDE + textwrap.dedent(source))
        return run_script(whole, str(tmp_path / f"database{next(numbers)}.duckdb"), pool, *args, timeout=90)

    return run


def passes(done: subprocess.CompletedProcess[str]) -> None:
    """Fail unless the script ended well and printed nothing."""
    assert_quiet(done)


def fails(done: subprocess.CompletedProcess[str]) -> None:
    """Fail unless the script did: its pool is a control. A script that is wrong itself does not count."""
    assert done.returncode != 0, done
    for mistake in ("NameError", "SyntaxError", "ImportError", "TypeError", "AttributeError"):
        assert mistake not in done.stderr, done.stderr
