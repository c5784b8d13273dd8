"""Plays the rounds: each in a fresh process, the pools in turn."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pidpool.bench.rounds import Played, Round
from pidpool.bench.workloads import CHILD_SECONDS
from pidpool.hazards.fresh import Died, FreshProcess, OutOfTime

if TYPE_CHECKING:
    from collections.abc import Generator

    from pidpool.bench.rounds import Load
    from pidpool.bench.workloads import Workload
    from pidpool.hazards import Subject, Target

_START_SECONDS = 30.0  # to import SQLAlchemy, on a machine that is busy
_SPARE_SECONDS = 2 * CHILD_SECONDS + 2  # to connect, and to wait twice for a child that hangs
_ENOUGH_HANGS = 2  # What hung twice will hang again, and each time costs seconds.


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how."""

    workloads: tuple[Workload, ...]
    subjects: tuple[Subject, ...]
    rounds: int
    load: Load

    def __len__(self) -> int:
        """Return the number of rounds, those of all workloads and pools together."""
        return len(self.workloads) * len(self.subjects) * self.rounds

    @property
    def needs_server(self) -> bool:
        """Whether any of the workloads works on a database."""
        return any(workload.needs_server for workload in self.workloads)


def play(plan: Plan, target: Target | None) -> Generator[Played]:
    """Yield every round of the plan as soon as it has been played.

    A round is a fresh process, so that a pool can hang or break without harm to the next, and so that what differs
    from process to process (the layout of memory, the hashes) is part of the spread. In each round all pools have
    their turn, and another one is first each time. Closing the generator ends the round that is being played.

    Args:
        plan: what to measure.
        target: the database; None will do if no workload needs one.
    """
    for workload in plan.workloads:
        hangs: Counter[str] = Counter()
        for number in range(plan.rounds):
            first = number % len(plan.subjects)
            for subject in (*plan.subjects[first:], *plan.subjects[:first]):
                if hangs[subject.name] >= _ENOUGH_HANGS:
                    result = Round("skipped", f"it has hung {_ENOUGH_HANGS} times")
                else:
                    result = play_round(workload, subject, plan.load, target)
                hangs[subject.name] += result.outcome == "hang" or result.hung > 0
                yield Played(workload.name, subject.name, number, result)


def play_round(workload: Workload, subject: Subject, load: Load, target: Target | None) -> Round:
    """Play one round of `workload` with the pool `subject` and return what it came to."""
    on = target if workload.needs_server else None
    job = {
        "name": workload.name,
        "subject": subject.name,
        "url": on.url if on else "",
        "session_id": on.dialect.session_id if on else "",
        "load": asdict(load),
    }
    limit = _SPARE_SECONDS + 3 * load.duration
    with FreshProcess("pidpool.bench.worker", job) as process:
        try:
            messages = process.listen(time.monotonic() + _START_SECONDS)
            if len(messages) == 1:  # that it is ready
                messages += process.listen(time.monotonic() + limit)
            result = Round.from_json(messages[1])
        except OutOfTime:
            result = Round("hang", f"no end within {limit:g} s")
        except Died as last_words:
            result = Round("error", str(last_words))
    return Round.from_json(result.as_json() | {"detail": on.conceal(result.detail)}) if on else result
