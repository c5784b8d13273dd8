"""The statistics, against values that can be worked out by hand."""

from __future__ import annotations

import pytest

from pidpool.bench.figures import (
    FEWEST_ROUNDS,
    SIGNIFICANT,
    Spread,
    chance_of_difference,
    chance_of_ratios,
    fairness,
    percentiles,
)


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)
    assert Spread.of([5, 1, 2, 4, 3]).width == pytest.approx(2 / 3)


def test_percentiles_run_from_the_least_to_the_greatest() -> None:
    found = percentiles(range(1001))
    assert (found[0], found[50], found[99], found[100]) == (0, 500, 990, 1000)
    assert percentiles([]) == ()


@pytest.mark.parametrize(("shares", "expected"), [([3, 3, 3, 3], 1.0), ([8, 0, 0, 0], 0.25), ([0, 0], 1.0)])
def test_fairness_is_jains_index(shares: list[float], expected: float) -> None:
    assert fairness(shares) == pytest.approx(expected)


def test_ratios_on_one_side_are_significant_from_the_fewest_rounds_on() -> None:
    assert chance_of_ratios([0.9] * FEWEST_ROUNDS) == pytest.approx(2 / 2**FEWEST_ROUNDS)
    assert 2 / 2**FEWEST_ROUNDS < SIGNIFICANT
    assert chance_of_ratios([0.9] * (FEWEST_ROUNDS - 1)) > SIGNIFICANT


def test_ratios_on_both_sides_are_not_significant() -> None:
    assert chance_of_ratios([0.8, 1.25] * 5) == 1.0
    assert chance_of_ratios([0.9, 1.1, 1.05, 0.97, 1.02, 0.99, 1.01, 0.95]) > SIGNIFICANT
    assert chance_of_ratios([]) == 1.0


def test_many_rounds_are_judged_by_a_sample_the_same_each_time() -> None:
    ratios = [0.9, 0.95, 1.01] * 10
    assert chance_of_ratios(ratios) == chance_of_ratios(ratios) < SIGNIFICANT


def test_two_groups_are_different_when_they_do_not_overlap() -> None:
    low, high = [1.0, 1.1, 1.2, 1.05, 1.15], [2.0, 2.1, 2.2, 2.05, 2.15]
    assert chance_of_difference(low, high) == pytest.approx(2 / 252)  # of the 10 over 5 ways to part them
    assert chance_of_difference(low * 5, high * 5) < SIGNIFICANT
    assert chance_of_difference(low, [*low]) == 1.0
    assert chance_of_difference(low, []) == 1.0
