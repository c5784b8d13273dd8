"""Every hazard, with every driver: PidPool keeps its promise, and the control shows that the hazard is real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pidpool.hazards import CATALOGUE, SUBJECTS, UnknownHazard, hazard, run, subject
from tests.servers import ASYNCIO_DRIVERS, DRIVERS, MORE_DRIVERS

if TYPE_CHECKING:
    from pidpool.hazards import Hazard, Target, Verdict
    from tests.hazards.conftest import TargetOf

# For --quick, the drivers that differ most: one that looks at the PID itself, and one whose finalizer says goodbye.
_QUICK = ("psycopg", "mysqlclient")
_SECONDS = 45.0  # A machine with two cores runs several of these at a time.


def skip_what_is_not_possible(verdict: Verdict) -> None:
    # The embedded PostgreSQL serves where there is no other.
    if verdict.detail == "the server offers no TLS" or "serves the tasks of an event loop" in verdict.detail:
        pytest.skip(verdict.detail)


def assert_safe(verdict: Verdict) -> None:
    skip_what_is_not_possible(verdict)
    assert (verdict.outcome, verdict.detail) == ("safe", "")


every_hazard = pytest.mark.parametrize("name", [row.name for row in CATALOGUE.values() if row.needs == "server"])


def drivers(*quick: str, among: tuple[str, ...] = DRIVERS + ASYNCIO_DRIVERS) -> pytest.MarkDecorator:
    """Parametrise over drivers; those that are not `quick` are left to the long run."""
    cases = [pytest.param(each, marks=() if each in quick else pytest.mark.slow) for each in among]
    return pytest.mark.parametrize("driver", cases)


@drivers(*_QUICK)
@every_hazard
def test_pid_pool_is_safe(name: str, driver: str, target_of: TargetOf) -> None:
    assert_safe(run(hazard(name), subject("pidpool"), target_of(driver), timeout=_SECONDS))


# The drivers that were added later: at once where it is the driver that makes the difference.
_TELLING = ("gc", "exit", "mid-stream", "prepared", "parent-death", "tls")
each_later_driver = pytest.mark.parametrize("driver", [*MORE_DRIVERS, "asyncmy"])


@each_later_driver
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(row.name, marks=() if row.name in _TELLING else pytest.mark.slow)
        for row in CATALOGUE.values()
        if row.needs == "server"
    ],
)
def test_pid_pool_is_safe_with_the_other_drivers_too(name: str, driver: str, target_of: TargetOf) -> None:
    assert_safe(run(hazard(name), subject("pidpool"), target_of(driver), timeout=_SECONDS))


@pytest.mark.slow
@each_later_driver
@pytest.mark.parametrize("name", ["exit", "parent-death"])
def test_the_control_is_not_safe_with_the_other_drivers_either(name: str, driver: str, target_of: TargetOf) -> None:
    verdict = run(hazard(name), subject(hazard(name).control(driver)), target_of(driver), timeout=_SECONDS / 5)
    skip_what_is_not_possible(verdict)
    assert verdict.outcome in {"lost", "hang"}, verdict


# What it has of its own lies above the drivers, so one of each kind will do.
@drivers("psycopg", among=("psycopg", "mysqlclient", "asyncpg"))
@every_hazard
def test_pid_null_pool_is_safe(name: str, driver: str, target_of: TargetOf) -> None:
    assert_safe(run(hazard(name), subject("pidnullpool"), target_of(driver), timeout=_SECONDS))


@drivers("psycopg")
@every_hazard
def test_the_control_is_not_safe(name: str, driver: str, target_of: TargetOf) -> None:
    control = subject(hazard(name).control(driver))
    verdict = run(hazard(name), control, target_of(driver), timeout=_SECONDS / 3)
    skip_what_is_not_possible(verdict)
    assert verdict.outcome in {"lost", "hang"}, verdict
    assert verdict.detail


@pytest.mark.parametrize("pool", ["pidpool", "pidnullpool"])
def test_a_sqlite_file_is_safe(pool: str, file_target: Target) -> None:
    assert_safe(run(hazard("sqlite"), subject(pool), file_target, timeout=_SECONDS))


@pytest.mark.parametrize("pool", [hazard("sqlite").control("pysqlite"), "nullpool", "queuepool+dispose-noclose"])
def test_with_other_pools_a_sqlite_file_is_not_safe(pool: str, file_target: Target) -> None:
    verdict = run(hazard("sqlite"), subject(pool), file_target, timeout=_SECONDS)
    assert verdict.outcome == "lost", verdict
    assert verdict.detail


@pytest.mark.parametrize("pool", ["pidpool", "pidnullpool"])
def test_a_sqlite_file_is_safe_with_asyncio(pool: str, awaited_file_target: Target) -> None:
    assert_safe(run(hazard("sqlite"), subject(pool), awaited_file_target, timeout=_SECONDS))


@pytest.mark.parametrize("pool", [hazard("sqlite").control("aiosqlite"), "queuepool+dispose-noclose"])
def test_with_other_pools_a_sqlite_file_is_not_safe_with_asyncio(pool: str, awaited_file_target: Target) -> None:
    verdict = run(hazard("sqlite"), subject(pool), awaited_file_target, timeout=3)
    assert verdict.outcome in {"lost", "hang"}, verdict
    assert verdict.detail


@every_hazard
def test_what_a_sqlite_file_cannot_have_says_so(name: str, file_target: Target) -> None:
    verdict = run(hazard(name), subject("pidpool"), file_target, timeout=_SECONDS)
    assert (verdict.outcome, verdict.detail) == ("skipped", "a SQLite file has no sessions; see the row sqlite")


@pytest.mark.parametrize("pool", ["pidpool", "pidnullpool"])
def test_a_duckdb_file_is_safe(pool: str, duckdb_target: Target) -> None:
    assert_safe(run(hazard("duckdb"), subject(pool), duckdb_target, timeout=_SECONDS))


@pytest.mark.parametrize("pool", [hazard("duckdb").control("duckdb"), "nullpool", "queuepool+dispose-noclose"])
def test_with_other_pools_a_duckdb_file_is_not_safe(pool: str, duckdb_target: Target) -> None:
    verdict = run(hazard("duckdb"), subject(pool), duckdb_target, timeout=_SECONDS / 3)
    assert verdict.outcome in {"lost", "hang"}, verdict
    assert verdict.detail


# One for each kind of row: each costs a process.
@pytest.mark.parametrize("name", ["gc", "sqlite", "async"])
def test_what_a_duckdb_file_cannot_have_says_so(name: str, duckdb_target: Target) -> None:
    verdict = run(hazard(name), subject("pidpool"), duckdb_target, timeout=_SECONDS)
    assert (verdict.outcome, verdict.detail) == ("skipped", "a DuckDB file has no sessions; see the row duckdb")


@pytest.mark.parametrize(("name", "product"), [("sqlite", "SQLite"), ("duckdb", "DuckDB")])
def test_a_server_is_no_file(name: str, product: str, target_of: TargetOf) -> None:
    verdict = run(hazard(name), subject("pidpool"), target_of("psycopg"), timeout=_SECONDS)
    assert (verdict.outcome, verdict.detail) == ("skipped", f"only for a {product} file")


def test_the_catalogue_has_the_rows_that_we_promise() -> None:
    assert list(CATALOGUE) == [
        "concurrent-use",
        "gc",
        "exit",
        "dispose",
        "explicit-close",
        "open-transaction",
        "held-use",
        "other-thread",
        "lock-held",
        "capacity",
        "mid-stream",
        "prepared",
        "session-state",
        "nested",
        "hookless",
        "same-pid",
        "parent-death",
        "ping-recycle",
        "descriptors",
        "fork-fails",
        "tls",
        "storm",
        "sqlite",
        "duckdb",
        "async",
        "client-gc",
        "client-exit",
        "client-close",
        "client-held-use",
        "mid-pipeline",
        "client-other-thread",
        "client-lock-held",
        "client-hookless",
        "client-parent-death",
        "client-async",
    ]


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=list(CATALOGUE))
def test_a_hazard_explains_itself(row: Hazard) -> None:
    assert row.title
    assert row.promise
    assert row.advice.endswith(".")
    assert len(row.story.split()) > 20
    assert row.source.startswith("def ")
    assert '"""' not in row.source
    compile(row.source, row.name, "exec")


def test_an_unknown_hazard_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownHazard,
        match=r"unknown hazard 'gcc'; known are concurrent-use, .*storm, sqlite, duckdb, async, .*client-async",
    ):
        hazard("gcc")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUBJECTS if not name.startswith("pid")])
def test_no_other_pool_is_safe_throughout(name: str, target_of: TargetOf) -> None:
    # If one were, the README could not say why PidPool exists.
    rows = ("gc", "open-transaction", "parent-death")
    verdicts = [run(hazard(row), subject(name), target_of("psycopg"), timeout=_SECONDS / 3) for row in rows]
    assert {"lost", "hang"} & {verdict.outcome for verdict in verdicts}, verdicts
    assert "error" not in {verdict.outcome for verdict in verdicts}, verdicts
