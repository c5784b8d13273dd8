"""Two runs beside one another: did something become slower, or wrong?"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pidpool.bench.errors import ConditionError
from pidpool.bench.figures import SIGNIFICANT, Spread, chance_of_difference
from pidpool.bench.results import METRICS, clean, damage
from pidpool.bench.verdicts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pidpool.bench.results import Results, Settings
    from pidpool.bench.rounds import Round

_CONDITION = re.compile(r"(?P<metric>\w+):\+(?P<per_cent>\d+(\.\d+)?)%")


@dataclass(frozen=True)
class Condition:
    """How much worse is too much: ``p99:+10%``."""

    metric: str
    per_cent: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition that `text` states.

        Raises:
            ConditionError: it states none.
        """
        found = _CONDITION.fullmatch(text.strip())
        if not found or found["metric"] not in METRICS or not math.isfinite(float(found["per_cent"])):
            raise ConditionError(
                f"{text!r} is no condition: expected METRIC:+N%, such as p99:+10%, with one of {', '.join(METRICS)}"
            )
        return cls(found["metric"], float(found["per_cent"]))

    def is_met_by(self, change: Change) -> bool:
        """Return whether `change` is that bad, and no chance."""
        return change.metric == self.metric and change.is_significant and change.after > change.before * self._factor

    @property
    def _factor(self) -> float:
        return 1 + self.per_cent / 100

    def __str__(self) -> str:
        return f"{self.metric}:+{self.per_cent:g}%"


@dataclass(frozen=True)
class Change:
    """One metric of one pool in one workload, before and after; medians of the rounds, in seconds."""

    workload: str
    pool: str
    metric: str
    before: float
    after: float
    chance: float
    """How likely such a difference is if nothing has changed."""

    @property
    def ratio(self) -> float:
        """After as a share of before."""
        return self.after / self.before if self.before else 1.0

    @property
    def is_significant(self) -> bool:
        """Whether chance is a poor explanation."""
        return self.chance < SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """What has changed between two runs."""

    changes: tuple[Change, ...]
    new_damage: tuple[str, ...]
    """A line for each pool that now does wrong what it did right before."""
    missing: tuple[str, ...]
    """A line for each pool and workload that only the first run has measured."""
    added: tuple[str, ...] = ()
    """A line for each pool and workload that only the second run has measured."""
    differences: tuple[str, ...] = ()
    """A line for each circumstance that was another one: what has changed may be due to it."""

    @classmethod
    def of(cls, before: Results, after: Results) -> Comparison:
        """Compare `after` with `before`, for the pools and workloads that both have."""
        old, new = _measured(before), _measured(after)
        both = [cell for cell in old if cell in new]
        return cls(
            changes=tuple(change for cell in both for change in _changes(cell, old[cell], new[cell])),
            new_damage=tuple(
                f"{workload}, {pool}: {counted(damage(new[workload, pool]))}, and none before"
                for workload, pool in both
                if damage(new[workload, pool]) and not damage(old[workload, pool])
            ),
            missing=tuple(
                f"{workload}, {pool}: only the first file has measured it"
                for workload, pool in old
                if (workload, pool) not in new
            ),
            added=tuple(
                f"{workload}, {pool}: only the second file has measured it"
                for workload, pool in new
                if (workload, pool) not in old
            ),
            differences=tuple(_differences(before.settings, after.settings)),
        )

    def summary(self) -> str:
        """Return what the changes come to, in a sentence."""
        significant = [change.ratio for change in self.changes if change.is_significant]
        if not significant:
            return f"None of {len(self.changes)} figures has changed significantly."
        slower = sum(ratio > 1 for ratio in significant)
        return (
            f"Of {len(self.changes)} figures {slower} became worse and {len(significant) - slower} better; "
            "the other differences are not significant."
        )

    def offences(self, conditions: tuple[Condition, ...]) -> list[str]:
        """Return what speaks against the second run: nothing, unless there are conditions.

        A line for each change that meets one of them, for each new damage, and for everything that is not measured any
        more: a pool that is gone, or cannot be measured, has met no condition.
        """
        slower = [
            f"{change.workload}, {change.pool}: {change.metric} is {change.ratio - 1:+.1%}, and {condition} is too much"
            for change in self.changes
            for condition in conditions
            if condition.is_met_by(change)
        ]
        return [*slower, *self.new_damage, *self.missing] if conditions else []


def _measured(results: Results) -> dict[tuple[str, str], list[Round]]:
    """Return the rounds of each workload and pool that came to something; not of those that were skipped."""
    return {(workload, pool): rounds for workload, pool, rounds in results.cells() if clean(rounds) or damage(rounds)}


def _differences(before: Settings, after: Settings) -> Iterator[str]:
    # That pidpool's version is another one is what most comparisons are for.
    names = [name for name in {**before.versions, **after.versions} if name != "pidpool"]
    pairs = [(name, before.versions.get(name, "none"), after.versions.get(name, "none")) for name in names]
    pairs += [("cores", str(before.cores), str(after.cores))]
    pairs += [(name, str(value), str(asdict(after.load)[name])) for name, value in asdict(before.load).items()]
    yield from (f"{name} was {first}, and is {second}" for name, first, second in pairs if first != second)


def _changes(cell: tuple[str, str], before: list[Round], after: list[Round]) -> Iterator[Change]:
    # Times of a pool that did it wrong in either run say nothing.
    if damage(before) or damage(after) or not clean(before) or not clean(after):
        return
    for name, metric in METRICS.items():
        old, new = ([metric(played) for played in clean(rounds)] for rounds in (before, after))
        yield Change(
            *cell,
            metric=name,
            before=Spread.of(old).median,
            after=Spread.of(new).median,
            chance=chance_of_difference(old, new),
        )
