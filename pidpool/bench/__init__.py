"""Measures pools side by side: workloads, statistics, results. It prints nothing."""

from __future__ import annotations

from pidpool.bench.comparison import Change, Comparison, Condition
from pidpool.bench.errors import ConditionError, ResultsError, UnknownWorkload
from pidpool.bench.results import METRICS, Results, Settings
from pidpool.bench.rounds import Load, Played, Round
from pidpool.bench.runner import Plan, play, play_round
from pidpool.bench.workloads import WORKLOADS, Workload, workload

__all__ = [
    "METRICS",
    "WORKLOADS",
    "Change",
    "Comparison",
    "Condition",
    "ConditionError",
    "Load",
    "Plan",
    "Played",
    "Results",
    "ResultsError",
    "Round",
    "Settings",
    "UnknownWorkload",
    "Workload",
    "play",
    "play_round",
    "workload",
]
