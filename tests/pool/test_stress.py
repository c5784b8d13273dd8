"""Everything at once: threads, timeouts, invalidations, exceptions, forgotten connections, dispose, and forks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import address_for
from tests.pool.stressing import fork_part, stress, stress_server

if TYPE_CHECKING:
    from tests.pool.conftest import Play

PATIENCE = 40.0
"""Seconds until a thread that nobody served counts as stuck."""


@pytest.mark.parametrize("use_lifo", [False, True], ids=["fifo", "lifo"])
def test_a_crowd_that_forks_loses_no_slot_and_shares_no_connection(use_lifo: bool, play: Play) -> None:  # noqa: FBT001
    found = play(stress, 1, 40_000, patience=PATIENCE, use_lifo=use_lifo, limit=110)
    assert found["wrong"] == []
    assert found["served"] >= 40_000
    assert found["checkouts"] >= found["served"]
    assert found["timeouts"] > 0
    assert found["forks"] >= 10
    assert found["opened"] > 100  # much was invalidated, detached, or opened anew


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_crowd_through_a_hundred_thousand_checkouts(seed: int, play: Play) -> None:
    found = play(stress, seed, 100_000, patience=PATIENCE, limit=590)
    assert found["wrong"] == []
    assert found["served"] >= 100_000
    assert found["forks"] >= 50


@pytest.mark.parametrize("driver", ["psycopg", "pymysql"])
def test_a_crowd_that_forks_shares_no_session_of_a_server(
    driver: str, play: Play, request: pytest.FixtureRequest
) -> None:
    found = play(stress_server, address_for(driver, request).url(driver), 4, 800, patience=PATIENCE, limit=110)
    assert found["wrong"] == []
    assert found["served"] >= 800


# That the checks can fail


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        ("LosesAHandOver", "nobody served"),
        ("LosesASlot", "lost slot"),
        ("HandsOutTwice", "has two users|is closed"),  # or one of the two has it closed before the other says so
        ("GrantsOneTooMany", "one too many"),
    ],
)
def test_a_queue_that_is_broken_is_noticed(broken: str, finding: str, play: Play) -> None:
    found = play(stress, 5, 10_000, patience=4.0, broken=broken, limit=110)
    assert any(re.search(finding, one) for one in found["wrong"]), found


def test_with_queue_pool_a_child_uses_what_its_parent_opened(play: Play) -> None:
    assert play(fork_part, "PidPool") == []
    assert any("touched" in one for one in play(fork_part, "QueuePool"))
