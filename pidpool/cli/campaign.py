"""Every chosen hazard against every chosen pool, a few at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from pidpool.hazards import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pidpool.hazards import Hazard, Subject, Target, Verdict


def carry_out(
    hazards: Sequence[Hazard], subjects: Sequence[Subject], target: Target, *, timeout: float, jobs: int
) -> Iterator[Verdict]:
    """Yield the verdict on each combination as soon as it is there.

    Closing the generator stops the scenarios that still run.
    """
    executor = ThreadPoolExecutor(jobs)
    try:
        scenarios = [
            executor.submit(run, hazard, subject, target, timeout=timeout)
            for hazard in hazards
            for subject in subjects
        ]
        for scenario in as_completed(scenarios):
            yield scenario.result()
    finally:
        executor.shutdown(cancel_futures=True)
