"""The hazard catalogue: does a pool survive fork? One implementation for the audit, the tests and the README's matrix."""

from __future__ import annotations

from . import everyday, threads, sessions, processes, conditions  # noqa: F401, I001 - in the catalogue's order
from .catalogue import CATALOGUE, Hazard, hazard
from .errors import TargetError, UnknownHazard, UnknownSubject
from .proxy import RecordingProxy, Traffic
from .runner import Verdict, run, stop
from .subjects import SUBJECTS, Subject, subject
from .target import Target, check_target

__all__ = [
    "CATALOGUE",
    "SUBJECTS",
    "Hazard",
    "RecordingProxy",
    "Subject",
    "Target",
    "TargetError",
    "Traffic",
    "UnknownHazard",
    "UnknownSubject",
    "Verdict",
    "check_target",
    "hazard",
    "run",
    "stop",
    "subject",
]
