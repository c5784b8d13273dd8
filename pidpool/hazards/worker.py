"""The fresh process: it plays one scenario and writes its verdict into a pipe."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

from . import loops
from .catalogue import hazard as find_hazard
from .client_stage import ClientStage
from .errors import Hang, Lost, Skip, summary
from .fresh import begin
from .stage import Stage
from .subjects import client_subject
from .subjects import subject as find_subject
from .target import Target

if TYPE_CHECKING:
    from .catalogue import Hazard

# What a driver does not raise over a broken stream (a ValueError or an IndexError it may well).
_MISTAKES = (AttributeError, NameError, NotImplementedError, TypeError)


def work(*, hazard: str, subject: str, target: dict[str, Any], seconds: float, channel: int) -> None:
    """Play `hazard` against `subject` and end the process.

    Args:
        hazard: the hazard's name.
        subject: the pool's name.
        target: the fields of a `Target`.
        seconds: the time limit of a single step.
        channel: the descriptor that takes messages, one JSON object a line.
    """
    tell = begin(channel)

    def report(what: str | None, limit: float | None) -> None:
        tell({"waiting_for": what, "seconds": limit})

    # Collecting garbage in a child touches, and so copies, all that was ever imported. It holds no connection.
    gc.freeze()
    stage: Stage | ClientStage | None = None
    try:
        if Target(**target).kind == "client":
            stage = ClientStage(client_subject(subject), Target(**target), seconds, report)
        else:
            stage = Stage(find_subject(subject), Target(**target), seconds, report)
        _play(find_hazard(hazard), stage)
        verdict = {"outcome": "lost", "detail": stage.noise} if stage.noise else {"outcome": "safe", "detail": ""}
    except Exception as error:
        if stage is not None and stage.depth:
            raise  # A child on its way out: the verdict is its parent's business.
        verdict = _verdict(error, forked=stage is not None and stage.forked)
    tell(verdict)
    # Whatever the pool's own threads and finalizers would still do, the verdict is out.
    os._exit(0)


def _play(hazard: Hazard, stage: Stage | ClientStage) -> None:
    if hazard.makes_loops or isinstance(stage, ClientStage) or not stage.target.is_asyncio:
        hazard.play(stage)
    else:
        stage.inside_loop = True
        loops.in_loop(lambda: hazard.play(stage))


def _verdict(error: Exception, *, forked: bool) -> dict[str, str]:
    for finding, outcome in ((Lost, "lost"), (Hang, "hang"), (Skip, "skipped")):
        if isinstance(error, finding):
            return {"outcome": outcome, "detail": str(error)}
    if forked and not isinstance(error, _MISTAKES):
        # Up to the fork everything worked; so it is the parent's connection that the driver complains about.
        return {"outcome": "lost", "detail": f"the parent's connection broke: {summary(error)}"}
    sys.excepthook(type(error), error, error.__traceback__)
    return {"outcome": "error", "detail": summary(error)}
