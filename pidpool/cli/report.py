"""What an audit found, as data: the matrix, the findings, and the two files that are made of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pidpool.bench import circumstances
from pidpool.cli.redaction import hidden

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pidpool.cli.campaign import Plan
    from pidpool.hazards import Hazard, Target, Verdict

SCHEMA = "pidpool-audit/1"
"""The JSON layout; its number rises when a reader of the old layout would misread the new one."""

WORDS = {
    "safe": "safe",
    "lost": "LOST",
    "hang": "HANG",
    "error": "error",
    "skipped": "skipped",
    None: "not run",
}
"""How an outcome reads in the matrix, without any colour."""


@dataclass(frozen=True)
class Settings:
    """Under which circumstances the verdicts were reached."""

    target: str
    """The URL, its password hidden."""
    backend: str
    driver: str
    pools: tuple[str, ...]
    hazards: tuple[str, ...]
    timeout: float
    """Seconds that one scenario may take."""
    jobs: int
    """Scenarios that run at a time."""
    cores: int
    load: float | None
    """The machine's load in the last minute: a scenario that hangs for want of a processor is noise."""
    versions: dict[str, str]

    @classmethod
    def of(cls, plan: Plan, target: Target) -> Settings:
        """Note down everything that somebody would ask about a surprising verdict."""
        return cls(
            target=target.safe_url,
            backend=target.backend,
            driver=target.driver,
            pools=tuple(subject.name for subject in plan.subjects),
            hazards=tuple(hazard.name for hazard in plan.hazards),
            timeout=plan.timeout,
            jobs=plan.jobs,
            cores=circumstances.cores(),
            load=circumstances.load_average(),
            versions=circumstances.versions(target, circumstances.PEERS),
        )

    @property
    def circumstances(self) -> str:
        """All versions in one line."""
        of = self.versions
        return (
            f"pidpool {of['pidpool']}, SQLAlchemy {of['sqlalchemy']}, {of['server']}, "
            f"{self.driver} {of['driver']}, Python {of['python']}, {of['kernel']}"
        )


@dataclass
class Report:
    """The verdicts so far, in the order in which they arrived."""

    settings: Settings
    hazards: tuple[Hazard, ...]
    verdicts: list[Verdict] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    """How long the whole run took."""

    def rows(self) -> Iterator[tuple[Hazard, list[Verdict | None]]]:
        """Yield the matrix row by row, with one cell a pool; None stands for a scenario that did not run."""
        cells = {(verdict.hazard, verdict.subject): verdict for verdict in self.verdicts}
        for hazard in self.hazards:
            yield hazard, [cells.get((hazard.name, pool)) for pool in self.settings.pools]

    def column(self, pool: str) -> list[Verdict]:
        """Return the verdicts on `pool`, in the order of the matrix."""
        place = self.settings.pools.index(pool)
        return [cell for _, cells in self.rows() if (cell := cells[place])]

    def findings(self) -> list[str]:
        """Return a line for every scenario that did harm: which, with which pool, what was lost."""
        return [_line(verdict) for verdict in self._in_order() if is_finding(verdict)]

    def errors(self) -> list[str]:
        """Return a line for every scenario that could not be played: which, with which pool, why."""
        return [_line(verdict) for verdict in self._in_order() if verdict.outcome == "error"]

    def skipped(self) -> list[str]:
        """Return one line for every reason to skip a row, with the pools that it holds for."""
        pools: dict[tuple[str, str], list[str]] = {}
        for verdict in self._in_order():
            if verdict.outcome == "skipped":
                pools.setdefault((verdict.hazard, hidden(verdict.detail)), []).append(verdict.subject)
        return [f"{hazard}, {', '.join(names)}: skipped, {why}" for (hazard, why), names in pools.items()]

    def summary(self) -> list[str]:
        """Return a sentence for each pool."""
        sentences = [self._verdict_on(pool) for pool in self.settings.pools]
        if self.interrupted:
            total = len(self.settings.hazards) * len(self.settings.pools)
            sentences.append(f"Interrupted: {len(self.verdicts)} of {total} scenarios came to an end.")
        return sentences

    def _verdict_on(self, pool: str) -> str:
        verdicts = self.column(pool)
        tested = [verdict for verdict in verdicts if verdict.outcome != "skipped"]
        skipped = len(verdicts) - len(tested)
        unplayed = sum(verdict.outcome == "error" for verdict in tested)
        lost = sum(map(is_finding, tested))
        aside = f", {unplayed} could not be played" if unplayed and unplayed < len(tested) else ""
        aside += f", {skipped} skipped" if skipped else ""
        if not tested:
            return f"{pool}: nothing was tested{aside}."
        if unplayed == len(tested):
            return f"{pool}: could not be played in {unplayed} of {len(tested)} rows{aside}."
        if lost:
            return f"{pool}: not safe in {lost} of {len(tested)} rows{aside}."
        return f"{pool}: safe in {len(tested) - unplayed} of {len(tested)} rows{aside}."

    @property
    def is_proven(self) -> bool:
        """Whether the first pool went through a scenario at least: one that skipped all proved nothing."""
        return any(verdict.outcome != "skipped" for verdict in self.column(self.settings.pools[0]))

    @property
    def is_unsafe(self) -> bool:
        """Whether a scenario did harm to the first pool."""
        return any(is_finding(verdict) for verdict in self.column(self.settings.pools[0]))

    @property
    def has_errors(self) -> bool:
        """Whether a scenario could not be played with the first pool: nobody knows what that hides."""
        return any(verdict.outcome == "error" for verdict in self.column(self.settings.pools[0]))

    @property
    def is_safe(self) -> bool:
        """Whether the first pool came through every scenario that is possible here, and all of them ran."""
        return self.is_proven and not (self.is_unsafe or self.has_errors or self.interrupted)

    def as_json(self) -> str:
        """Return everything, for programs."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "interrupted": self.interrupted,
            "safe": self.is_safe,
            "seconds": round(self.seconds, 3),
            "settings": asdict(self.settings),
            "hazards": {hazard.name: {"title": hazard.title, "promise": hazard.promise} for hazard in self.hazards},
            "verdicts": [
                {
                    "hazard": verdict.hazard,
                    "pool": verdict.subject,
                    "outcome": verdict.outcome,
                    "detail": hidden(verdict.detail),
                    "seconds": round(verdict.seconds, 3),
                }
                for verdict in self._in_order()
            ],
        }
        # The versions are a chapter of their own, not one setting among others.
        content["versions"] = content["settings"].pop("versions")
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """Return the matrix and what stands behind it; the table has nothing that changes from run to run."""
        pools = self.settings.pools
        lines = [
            markdown_row(["hazard", "the child ...", *pools]),
            markdown_row(["---", "---", *("---" for _ in pools)]),
        ]
        for hazard, cells in self.rows():
            words = [WORDS[cell.outcome if cell else None] for cell in cells]
            # Emphasis as well as capitals: losses are what a reader looks for.
            marked = [f"**{word}**" if word.isupper() else word for word in words]
            lines.append(markdown_row([f"`{hazard.name}`", hazard.title, *marked]))
        lines += [
            "",
            f"{self.settings.circumstances}.",
            "",
            *markdown_list(self.summary()),
        ]
        if self.findings():
            lines += ["", "What was lost:", "", *markdown_list(self.findings())]
        if self.errors():
            lines += ["", "What could not be played:", "", *markdown_list(self.errors())]
        if self.skipped():
            lines += ["", "What was skipped:", "", *markdown_list(self.skipped())]
        return "\n".join(lines) + "\n"

    def _in_order(self) -> Iterator[Verdict]:
        """Yield the verdicts as the matrix has them, whichever of them was ready first."""
        return (cell for _, cells in self.rows() for cell in cells if cell)


def is_finding(verdict: Verdict) -> bool:
    """Return whether `verdict` speaks against the pool."""
    return verdict.outcome in {"lost", "hang"}


def _line(verdict: Verdict) -> str:
    return f"{verdict.hazard}, {verdict.subject}: {hidden(verdict.detail) or 'no detail'}"


def markdown_row(cells: list[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def markdown_list(lines: list[str]) -> list[str]:
    """Return a line for each point."""
    return [f"- {line}" for line in lines]
