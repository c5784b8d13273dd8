"""The hazard catalogue: one implementation for the audit, the tests and the README's matrix."""

# ruff: noqa: I001 - each of the first line enters its scenarios into the catalogue, and this is the order to read them in

from __future__ import annotations

from . import everyday, threads, sessions, processes, conditions, files, duckdb_files, awaiting, clients  # noqa: F401
from .catalogue import CATALOGUE, Hazard, Needs, hazard
from .errors import TargetError, UnknownHazard, UnknownSubject
from .proxy import RecordingProxy, Traffic
from .runner import Verdict, run, stop
from .sharing import CLIENTS, ClientSubject
from .subjects import CONTROLS, SUBJECTS, Subject, client_subject, subject, subject_for, subjects_for
from .target import Target, check_target, kind_of, reach

__all__ = [
    "CATALOGUE",
    "CLIENTS",
    "CONTROLS",
    "SUBJECTS",
    "ClientSubject",
    "Hazard",
    "Needs",
    "RecordingProxy",
    "Subject",
    "Target",
    "TargetError",
    "Traffic",
    "UnknownHazard",
    "UnknownSubject",
    "Verdict",
    "check_target",
    "client_subject",
    "hazard",
    "kind_of",
    "reach",
    "run",
    "stop",
    "subject",
    "subject_for",
    "subjects_for",
]
