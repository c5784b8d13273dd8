"""A short run of `python -m tests.sqlite.stress`; that command repeats it as often as you like."""

from __future__ import annotations

import pytest

from tests.sqlite.stress import LIMIT, once

_RUNS = 5


@pytest.mark.timeout(LIMIT + 30)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_the_file_is_whole_and_has_every_row(journal: str) -> None:
    once(journal, "suite", control=False)


@pytest.mark.slow
@pytest.mark.timeout(_RUNS * (LIMIT + 30))
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_it_is_so_every_time(journal: str) -> None:
    for number in range(_RUNS):
        once(journal, f"suite {number}", control=False)


@pytest.mark.timeout(_RUNS * (LIMIT + 30))
def test_pinning_without_closing_loses_rows_or_worse() -> None:
    for number in range(_RUNS):
        try:
            once("wal", f"control {number}", control=True)
        except AssertionError:
            return
    pytest.fail(f"{_RUNS} runs of the control were clean: the stress proves nothing")
