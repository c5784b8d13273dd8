"""The few statistics that the bench needs: spread, percentiles, and whether a difference is more than chance."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SIGNIFICANT = 0.05
"""A difference counts when chance alone would show one as large less often than this."""

FEWEST_ROUNDS = 6
"""With fewer pairs no difference can be significant: 2 ** -5 is the first below `SIGNIFICANT` on both sides."""

_EXACT_PAIRS = 14  # 16384 combinations; beyond, as many at random.
_RANDOM_COMBINATIONS = 10_000
_INSTANT = 1e-12
"""Seconds; stands for 0, which has no logarithm, and is what a coarse clock shows of a single operation."""


@dataclass(frozen=True)
class Spread:
    """The middle of some values, and the range in which half of them lie."""

    median: float
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of `values`, which must not be empty."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def width(self) -> float:
        """How far the quartiles are apart, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def percentiles(values: Iterable[float]) -> tuple[float, ...]:
    """Return the 101 values that stand at 0, 1, ... 100 per cent of the way through the sorted `values`."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return tuple(ordered[math.ceil(last * share / 100)] for share in range(101)) if ordered else ()


def fairness(shares: Sequence[float]) -> float:
    """Return Jain's index: 1 when all have got the same, 1/n when one of n has got everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def chance_of_ratios(ratios: Sequence[float]) -> float:
    """Return how likely ratios as far from 1 as these are, if each might as well have been its inverse.

    A permutation test on pairs: it assumes nothing about the shape of the noise, and a round in which the
    machine was slow counts for both sides of its pair.
    """
    logarithms = [math.log(ratio) for ratio in ratios]
    if not logarithms:
        return 1.0
    observed = abs(sum(logarithms))
    sums = (abs(sum(map(_times, logarithms, signs))) for signs in _signs(len(logarithms)))
    return _share_at_least(observed, sums)


def chance_of_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how likely two groups as different as these are, if their values might as well be mixed.

    A permutation test on the difference of the mean logarithms, for rounds of two runs, which form no pairs.
    """
    if not first or not second:
        return 1.0
    logarithms = [math.log(max(value, _INSTANT)) for value in (*first, *second)]
    overall = sum(logarithms)

    def distance(part: float) -> float:
        return abs(part / len(first) - (overall - part) / len(second))

    observed = distance(sum(logarithms[: len(first)]))
    if math.comb(len(logarithms), len(first)) <= 2**_EXACT_PAIRS:
        parts: Iterable[Sequence[float]] = itertools.combinations(logarithms, len(first))
    else:
        chooser = random.Random(0)  # noqa: S311 - the same file must give the same verdict each time
        parts = (chooser.sample(logarithms, len(first)) for _ in range(_RANDOM_COMBINATIONS))
    return _share_at_least(observed, (distance(sum(part)) for part in parts))


def _times(value: float, sign: int) -> float:
    return value * sign


def _signs(count: int) -> Iterable[Sequence[int]]:
    if count <= _EXACT_PAIRS:
        return itertools.product((1, -1), repeat=count)
    chooser = random.Random(0)  # noqa: S311 - as above
    return (chooser.choices((1, -1), k=count) for _ in range(_RANDOM_COMBINATIONS))


def _share_at_least(observed: float, values: Iterable[float]) -> float:
    tolerance = 1e-9 * (1 + observed)  # The observed arrangement is among them, summed in another order.
    found = [value >= observed - tolerance for value in values]
    return sum(found) / len(found)
