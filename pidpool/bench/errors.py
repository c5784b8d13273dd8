"""What the bench refuses."""

from __future__ import annotations


class UnknownWorkload(LookupError):  # noqa: N818 - reads as the answer to `workload("...")`
    """No workload has this name."""


class ResultsError(ValueError):
    """A file holds no results that can be read; the message says why."""


class ConditionError(ValueError):
    """A condition such as ``p99:+10%`` cannot be understood; the message says how one reads."""
