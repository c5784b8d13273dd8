"""The hazard catalogue: one implementation for the audit, the tests and the README's matrix."""

# ruff: noqa: I001 - each of the first line enters its scenarios into the catalogue, and this is the order to read them in

from __future__ import annotations

from . import everyday, threads, sessions, processes, conditions, files, duckdb_files, awaiting  # noqa: F401
from .catalogue import CATALOGUE, Hazard, hazard
from .errors import TargetError, UnknownHazard, UnknownSubject
from .proxy import RecordingProxy, Traffic
from .runner import Verdict, run, stop
from .subjects import CONTROLS, SUBJECTS, Subject, subject
from .target import Target, check_target, reach

__all__ = [
    "CATALOGUE",
    "CONTROLS",
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
    "reach",
    "run",
    "stop",
    "subject",
]
