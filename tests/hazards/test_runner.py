"""A run ends in time, takes its children with it, and keeps the password to itself."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pidpool.hazards import SUBJECTS, UnknownSubject, hazard, run, subject

if TYPE_CHECKING:
    from tests.hazards.conftest import TargetOf

_MODULE = """
import os, sys, time
from pathlib import Path
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool, QueuePool
from pidpool import PidPool

class MyPool(PidPool):
    pass

def careful(url):
    return create_engine(url, poolclass=PidPool, pool_size=3, max_overflow=0)

def careless(url):
    return create_engine(url, pool_size=3, max_overflow=0)

def hanging(url):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    Path(__file__).with_name("pids").write_text(f"{os.getpid()} {pid}")
    time.sleep(600)

def crashing(url):
    os.abort()

def wrong(url):
    return url

not_a_pool = 1
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a module of a user's, importable from the current directory."""
    (tmp_path / "pools_of_mine.py").write_text(_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "pools_of_mine", raising=False)
    return tmp_path


@pytest.mark.parametrize(("name", "outcome"), [("MyPool", "safe"), ("careful", "safe"), ("careless", "lost")])
@pytest.mark.usefixtures("users_module")
def test_a_pool_of_the_users_own_is_judged(name: str, outcome: str, target_of: TargetOf) -> None:
    verdict = run(hazard("gc"), subject(f"pools_of_mine:{name}"), target_of("psycopg"))
    assert verdict.outcome == outcome, verdict


def test_a_run_that_hangs_ends_with_all_of_its_children(users_module: Path, target_of: TargetOf) -> None:
    verdict = run(hazard("gc"), subject("pools_of_mine:hanging"), target_of("psycopg"), timeout=6)
    assert (verdict.outcome, verdict.detail) == ("hang", "setting up connections in the parent hung")
    for pid in (users_module / "pids").read_text().split():
        assert _has_ended(int(pid))


@pytest.mark.usefixtures("users_module")
def test_a_crash_is_an_error_not_a_hang(target_of: TargetOf) -> None:
    verdict = run(hazard("gc"), subject("pools_of_mine:crashing"), target_of("psycopg"))
    assert (verdict.outcome, bool(verdict.detail)) == ("error", True)
    assert verdict.seconds < 20


@pytest.mark.usefixtures("users_module")
def test_a_function_that_returns_no_engine_is_an_error(target_of: TargetOf) -> None:
    verdict = run(hazard("gc"), subject("pools_of_mine:wrong"), target_of("psycopg"))
    assert verdict.outcome == "error"
    assert verdict.detail == "TypeError: wrong returned str, not an SQLAlchemy Engine"


@pytest.mark.parametrize(
    "name", ["quepool", "no_such_module:Pool", "pools_of_mine:nothing", "pools_of_mine:not_a_pool"]
)
@pytest.mark.usefixtures("users_module")
def test_an_unknown_pool_is_named(name: str) -> None:
    with pytest.raises(UnknownSubject, match=name):
        subject(name)


def test_a_pool_that_cannot_work_with_the_driver_is_skipped(target_of: TargetOf) -> None:
    verdict = run(hazard("gc"), SUBJECTS["psycopg-pool"], target_of("psycopg2"))
    assert (verdict.outcome, verdict.detail) == ("skipped", "psycopg_pool works with the driver psycopg only")


def test_neither_arguments_nor_environment_show_the_password(users_module: Path, target_of: TargetOf) -> None:
    target = target_of("psycopg")
    password = target.url.split(":")[2].split("@")[0]
    assert password not in repr(target) + target.safe_url
    running = threading.Thread(
        target=run, args=(hazard("gc"), subject("pools_of_mine:hanging"), target), kwargs={"timeout": 6}
    )
    running.start()
    pids = users_module / "pids"
    while not pids.exists() or not pids.read_text():
        time.sleep(0.05)
    worker = Path("/proc") / pids.read_text().split()[0]
    shown = (worker / "cmdline").read_bytes() + (worker / "environ").read_bytes()
    running.join()
    assert b"pidpool.hazards" in shown
    assert password.encode() not in shown


def _has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # Dead; whoever adopted it will notice.
        time.sleep(0.05)
    return False
