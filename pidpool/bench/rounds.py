"""What one round of one pool came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["done", "hang", "error", "skipped"]


@dataclass(frozen=True)
class Load:
    """How hard the pools are worked, the same for each of them.

    Attributes:
        duration: how long one round measures (seconds).
        threads: *contended*: how many threads want a connection.
        connections: *contended*: how many there are.
        hold: *contended*: how long a thread keeps one (seconds); 0 lets other threads run once, None does not
            even do that: the connection is given back at once.
        processes: *storm*: how many children are forked at once.
        inherited: *fork*, *storm*: how many idle connections the parent has.
    """

    duration: float = 0.5
    threads: int = 8
    connections: int = 2
    hold: float | None = 0.0005
    processes: int = 8
    inherited: int = 10


@dataclass(frozen=True)
class Round:
    """What one round of one pool came to; times are in seconds.

    Attributes:
        outcome: "done"; "hang": its process had to be killed; "error": it died; "skipped": not possible.
        detail: one line on an outcome other than "done", or the first error.
        operations: how many were measured.
        seconds: what an operation took, all of them together divided by their number; None if there were none.
        percentiles: how long single operations took, at 0, 1, ... 100 per cent.
        connects: connections that were opened.
        wrong: answers to another question than the one asked, or connections that two threads had at once.
        shared: children that worked in a session of their parent's.
        errors: operations that failed.
        timeouts: operations that got no connection in time.
        hung: children that did not answer.
        fairness: Jain's index over the threads; None where there is only one.
        statements: what the server was asked meanwhile; None where nobody has counted.
    """

    outcome: Outcome
    detail: str = ""
    operations: int = 0
    seconds: float | None = None
    percentiles: tuple[float, ...] = ()
    connects: int = 0
    wrong: int = 0
    shared: int = 0
    errors: int = 0
    timeouts: int = 0
    hung: int = 0
    fairness: float | None = None
    statements: int | None = None

    @property
    def is_clean(self) -> bool:
        """Whether its times count: what gave wrong answers was not fast, whatever it took."""
        return self.outcome == "done" and self.seconds is not None and not self.damage

    @property
    def damage(self) -> dict[str, int]:
        """What went wrong and how often, in words; empty if nothing did."""
        counts = {
            "wrong rows": self.wrong,
            "children in a session of their parent's": self.shared,
            "errors": self.errors,
            "children that hung": self.hung,
        }
        if self.outcome == "hang":
            counts["rounds that hung"] = 1
        elif self.outcome == "error":
            counts["rounds that failed"] = 1
        return {what: count for what, count in counts.items() if count}

    def as_json(self) -> dict[str, Any]:
        """Return the fields, for a file or a pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Round:
        """Return what `as_json` was made of."""
        return cls(**{**fields, "percentiles": tuple(fields.get("percentiles", ()))})


@dataclass(frozen=True)
class Played:
    """A round, and whose it was."""

    workload: str
    pool: str
    number: int
    """From 0; rounds of the same number were played one after the other, so they can be compared."""
    round: Round
