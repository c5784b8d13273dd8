"""Every workload runs against a real server, and notices what it has to notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool, Pool

from pidpool.bench import WORKLOADS, Load, Plan, UnknownWorkload, play, play_round, workload
from pidpool.bench.nothing import Connection
from pidpool.hazards import reach, subject

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from pidpool.bench import Round
    from pidpool.hazards import Target
    from tests.servers import Address

LOAD = Load(duration=0.1, threads=4, connections=1, processes=3, inherited=3)
WITHOUT_SERVER = [name for name, each in WORKLOADS.items() if not each.needs_server]


@pytest.fixture(scope="module")
def target(postgresql: Address) -> Target:
    return reach(postgresql.url("psycopg"))


def played(name: str, pool: str, target: Target | None = None, load: Load = LOAD) -> Round:
    return play_round(workload(name), subject(pool), load, target)


@pytest.mark.parametrize("pool", ["pidpool", "pidnullpool"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_safe_pool_comes_out_clean(name: str, pool: str, target: Target) -> None:
    found = played(name, pool, target)
    assert found.is_clean, found
    assert found.operations > 0
    assert len(found.percentiles) == 101
    assert list(found.percentiles) == sorted(found.percentiles)


@pytest.mark.parametrize("driver", ["pymysql", "mysqlclient"])
@pytest.mark.parametrize("name", sorted(set(WORKLOADS) - set(WITHOUT_SERVER)))
def test_workloads_know_mariadb_as_well(name: str, driver: str, mariadb: Address) -> None:
    found = played(name, "pidpool", reach(mariadb.url(driver)))
    assert found.is_clean, found
    assert found.operations > 0


def test_threads_may_give_their_connection_back_at_once() -> None:
    found = played("contended", "pidpool", load=Load(duration=0.1, threads=4, connections=1, hold=None))
    assert found.is_clean, found
    assert found.operations > 0


def test_connects_are_counted(target: Target) -> None:
    assert played("query", "pidpool", target).connects == 0
    found = played("query", "pidnullpool", target)
    assert found.connects == found.operations
    found = played("fork", "pidpool", target)
    assert found.connects == found.operations


def test_children_in_a_session_of_their_parents_are_noticed_even_when_all_goes_well(target: Target) -> None:
    found = played("fork", "queuepool", target)
    assert found.shared == found.operations > 0
    assert not found.is_clean


def test_children_that_break_one_anothers_answers_are_noticed(target: Target) -> None:
    assert played("storm", "queuepool", target).damage


def test_a_recipe_gets_its_call_in_the_child(target: Target) -> None:
    assert played("fork", "queuepool+dispose-noclose", target).is_clean


def test_threads_that_starve_show_in_the_fairness() -> None:
    load = Load(duration=0.5, threads=4, connections=1, hold=0.001)
    ours, theirs = (played("contended", pool, load=load).fairness for pool in ("pidpool", "queuepool"))
    assert ours is not None
    assert theirs is not None
    assert ours > 0.95
    assert theirs < 0.6


@pytest.mark.parametrize("name", WITHOUT_SERVER)
def test_a_pool_that_cannot_do_without_its_server_is_skipped(name: str) -> None:
    found = played(name, "psycopg-pool")
    assert found.outcome == "skipped"
    assert "psycopg" in found.detail


def _one_for_all(url: str) -> Engine:
    """Return an engine whose pool gives the same connection to everybody."""
    connection = Connection()
    return create_engine(url, creator=lambda: connection, poolclass=NullPool)


def _with_sqlite(_url: str) -> Engine:
    return create_engine("sqlite://")


def _broken(_url: str) -> Engine:
    raise RuntimeError("no engine today")


class Own(NullPool):
    """A pool class of a user's."""


def test_a_connection_that_two_threads_have_at_once_is_noticed() -> None:
    assert played("contended", f"{__name__}:_one_for_all").wrong > 0


def test_a_pool_of_the_users_own_is_measured() -> None:
    assert issubclass(Own, Pool)
    assert played("checkout", f"{__name__}:Own").is_clean


def test_an_engine_with_a_database_of_its_own_is_skipped_where_there_should_be_none() -> None:
    assert played("checkout", f"{__name__}:_with_sqlite").outcome == "skipped"


def test_a_pool_that_cannot_be_built_is_an_error_of_that_round() -> None:
    found = played("checkout", f"{__name__}:_broken")
    assert (found.outcome, found.detail) == ("error", "RuntimeError: no engine today")


def test_pools_take_turns_and_another_one_is_first_each_time() -> None:
    pools = tuple(map(subject, ("pidpool", "nullpool")))
    order = [(each.number, each.pool) for each in play(Plan((workload("checkout"),), pools, 2, LOAD), None)]
    assert order == [(0, "pidpool"), (0, "nullpool"), (1, "nullpool"), (1, "pidpool")]


def test_an_unknown_workload_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownWorkload, match="checkout, query, contended, fork, storm"):
        workload("nap")
