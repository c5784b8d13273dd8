"""Every chosen hazard against every chosen pool, a few at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pidpool.hazards import run, stop

if TYPE_CHECKING:
    from collections.abc import Generator

    from pidpool.hazards import ClientSubject, Hazard, Subject, Target, Verdict


@dataclass(frozen=True)
class Plan:
    """What is to be tested, and how."""

    hazards: tuple[Hazard, ...]
    subjects: tuple[Subject | ClientSubject, ...]
    timeout: float
    """Seconds that one scenario may take."""
    jobs: int
    """Scenarios that run at a time."""

    def __len__(self) -> int:
        """Return the number of scenarios."""
        return len(self.hazards) * len(self.subjects)


def carry_out(plan: Plan, target: Target) -> Generator[Verdict]:
    """Yield the verdict on each combination as soon as it is there.

    Closing the generator stops the scenarios that still run.
    """
    executor = ThreadPoolExecutor(plan.jobs)
    try:
        scenarios = [
            executor.submit(run, hazard, subject, target, timeout=plan.timeout)
            for hazard in plan.hazards
            for subject in plan.subjects
        ]
        for scenario in as_completed(scenarios):
            yield scenario.result()
    except BaseException:
        stop()  # Its threads wait for scenarios that would take until their time limit.
        raise
    finally:
        executor.shutdown(cancel_futures=True)
