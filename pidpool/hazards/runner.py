"""Runs one hazard against one pool: in a fresh process, within a time limit, to a verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .fresh import Died, FreshProcess, OutOfTime, stop

if TYPE_CHECKING:
    from .catalogue import Hazard
    from .sharing import ClientSubject
    from .subjects import Subject
    from .target import Target

__all__ = ["STEPS", "Outcome", "Verdict", "run", "stop"]

Outcome = Literal["safe", "lost", "hang", "error", "skipped"]

STEPS = 3
"""A single step of a scenario may take this fraction of the time limit."""


@dataclass(frozen=True)
class Verdict:
    """What became of one hazard with one pool.

    Attributes:
        hazard: the hazard's name.
        subject: the pool's name.
        outcome: "safe"; "lost": the parent or the child lost something; "hang": somebody waited for ever;
            "error": the scenario itself could not be played; "skipped": not possible here.
        detail: one line a user understands; empty when safe, the reason when skipped.
        seconds: how long it took.
    """

    hazard: str
    subject: str
    outcome: Outcome
    detail: str
    seconds: float


def run(hazard: Hazard, subject: Subject | ClientSubject, target: Target, *, timeout: float = 30.0) -> Verdict:
    """Play `hazard` against `subject` on `target` in a fresh process and return the verdict.

    Several threads may run hazards at the same time.

    Args:
        hazard: what to provoke.
        subject: the pool to provoke it with, or the way to share a client: see `subject_for`.
        target: the database or server.
        timeout: seconds after which the run counts as hung; a single step may take a third of it.
    """
    started = time.monotonic()
    job = {
        "hazard": hazard.name,
        "subject": subject.name,
        "target": target.as_job(),
        "seconds": timeout / STEPS,
    }
    with FreshProcess("pidpool.hazards.worker", job) as process:
        outcome, detail = _follow(process, started + timeout, timeout)
    return Verdict(hazard.name, subject.name, outcome, target.conceal(detail), time.monotonic() - started)


def _follow(process: FreshProcess, deadline: float, timeout: float) -> tuple[Outcome, str]:
    """Follow the worker's messages to its verdict, or to the end of its time."""
    waiting_for, step_deadline = "", deadline
    while True:
        try:
            messages = process.listen(min(deadline, step_deadline))
        except OutOfTime:
            return "hang", waiting_for + " hung" if waiting_for else f"no end within {timeout:g} s"
        except Died as last_words:
            return "error", str(last_words)
        for message in messages:
            if "outcome" in message:
                return message["outcome"], message["detail"]
            waiting_for = message["waiting_for"] or ""
            step_deadline = time.monotonic() + message["seconds"] if message["seconds"] else deadline
