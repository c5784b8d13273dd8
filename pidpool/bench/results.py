"""A whole run as data: settings, versions, machine, every round; and its JSON file."""

from __future__ import annotations

import json
import reprlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from pidpool.bench import circumstances
from pidpool.bench.errors import ResultsError
from pidpool.bench.figures import Spread
from pidpool.bench.reading import Value
from pidpool.bench.rounds import Load, Outcome, Played, Round
from pidpool.bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pidpool.bench.runner import Plan
    from pidpool.hazards import Target

SCHEMA = "pidpool-bench/1"
"""The JSON layout; its number rises when a reader of the old layout would misread the new one."""

_PERCENTILES = 101

METRICS: dict[str, Callable[[Round], float]] = {
    "time": lambda played: played.seconds or 0.0,
    "p50": lambda played: played.percentiles[50],
    "p99": lambda played: played.percentiles[99],
}
"""What can be compared, in seconds: the time of an operation on the whole, and how long single ones took."""


@dataclass(frozen=True)
class Settings:
    """Under which circumstances the rounds were played."""

    workloads: tuple[str, ...]
    pools: tuple[str, ...]
    rounds: int
    load: Load
    cores: int
    load_average: float | None
    """The machine's, in the minute before: what else it was doing."""
    versions: dict[str, str]
    target: str = ""
    """The URL, its password hidden; empty without a database."""
    driver: str = ""

    @classmethod
    def of(cls, plan: Plan, target: Target | None) -> Settings:
        """Note down everything that somebody would ask about a surprising figure."""
        return cls(
            workloads=tuple(workload.name for workload in plan.workloads),
            pools=tuple(subject.name for subject in plan.subjects),
            rounds=plan.rounds,
            load=plan.load,
            cores=circumstances.cores(),
            load_average=circumstances.load_average(),
            versions=circumstances.versions(target, circumstances.PEERS),
            target=target.safe_url if target else "",
            driver=target.driver if target else "",
        )


@dataclass
class Results:
    """The rounds so far, in the order in which they were played."""

    settings: Settings
    played: list[Played] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    """How long the whole run took."""
    load_average_after: float | None = None

    def rounds(self, workload: str, pool: str) -> list[Round]:
        """Return the rounds of `pool` that were played, in their order."""
        return [each.round for each in self.played if (each.workload, each.pool) == (workload, pool)]

    def cells(self) -> Iterator[tuple[str, str, list[Round]]]:
        """Yield each workload with each pool, and its rounds."""
        for workload in self.settings.workloads:
            for pool in self.settings.pools:
                yield workload, pool, self.rounds(workload, pool)

    def ratios(self, workload: str, pool: str, base: str) -> list[float]:
        """Return what `pool` took as a share of what `base` took, round by round, where both did it right."""
        by_number: dict[int, dict[str, Round]] = {}
        for each in self.played:
            if each.workload == workload and each.round.is_clean:
                by_number.setdefault(each.number, {})[each.pool] = each.round
        return [
            (pair[pool].seconds or 0.0) / (pair[base].seconds or 1.0)
            for _, pair in sorted(by_number.items())
            if pool in pair and base in pair
        ]

    def as_json(self) -> str:
        """Return everything, for programs."""
        settings = asdict(self.settings)
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "versions": settings.pop("versions"),
            "machine": {
                "cores": settings.pop("cores"),
                "load_before": settings.pop("load_average"),
                "load_after": self.load_average_after,
            },
            "settings": settings,
            "workloads": {name: WORKLOADS[name].title for name in self.settings.workloads},
            "summary": [
                {"workload": workload, "pool": pool, **_summary(rounds)} for workload, pool, rounds in self.cells()
            ],
            "rounds": [
                {"workload": each.workload, "pool": each.pool, "number": each.number, **each.round.as_json()}
                for each in self.played
            ],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Return what `as_json` was made of.

        Raises:
            ResultsError: `text` is not that; the message says what is wrong with it, and where.
        """
        try:
            content = json.loads(text)
            schema = content["schema"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ResultsError("it holds no results of `pidpool bench`") from None
        if schema != SCHEMA:
            raise ResultsError(f"it has the layout {reprlib.repr(schema)}, and this pidpool reads {SCHEMA!r}")
        file = Value(content)
        settings = _settings(file)
        return cls(
            settings=settings,
            played=[_played(each, settings) for each in file["rounds"].items()],
            interrupted=file["interrupted"].flag(),
            seconds=file["seconds"].number(),
            load_average_after=_number_or_none(file["machine"]["load_after"]),
        )


def clean(rounds: list[Round]) -> list[Round]:
    """Return those whose times count."""
    return [played for played in rounds if played.is_clean]


def damage(rounds: list[Round]) -> dict[str, int]:
    """Return what went wrong in `rounds`, and how often."""
    counts: dict[str, int] = {}
    for played in rounds:
        for what, count in played.damage.items():
            counts[what] = counts.get(what, 0) + count
    return counts


def _summary(rounds: list[Round]) -> dict[str, Any]:
    counted = clean(rounds)
    spreads = {
        name: asdict(Spread.of([metric(played) for played in counted])) if counted else None
        for name, metric in METRICS.items()
    }
    return {
        **spreads,
        "operations": sum(played.operations for played in rounds),
        "connects": sum(played.connects for played in rounds),
        "timeouts": sum(played.timeouts for played in rounds),
        "damage": damage(rounds),
    }


def _settings(file: Value) -> Settings:
    settings, load, machine = file["settings"], file["settings"]["load"], file["machine"]
    return Settings(
        workloads=settings["workloads"].labels(),
        pools=settings["pools"].labels(),
        rounds=settings["rounds"].count(1),
        load=Load(
            duration=load["duration"].positive(),
            threads=load["threads"].count(1),
            connections=load["connections"].count(1),
            hold=_number_or_none(load["hold"]),
            processes=load["processes"].count(1),
            inherited=load["inherited"].count(),
        ),
        cores=machine["cores"].count(1),
        load_average=_number_or_none(machine["load_before"]),
        versions={Value(name, each.path).label(): each.label() for name, each in file["versions"].fields().items()},
        target=settings["target"].label(),
        driver=settings["driver"].label(),
    )


def _played(each: Value, settings: Settings) -> Played:
    return Played(
        workload=each["workload"].one_of(settings.workloads),
        pool=each["pool"].one_of(settings.pools),
        number=each["number"].count(),
        round=_round(each),
    )


def _round(each: Value) -> Round:
    """Return the round; what took a time has percentiles, too."""
    seconds = each["seconds"].or_none()
    percentiles = each["percentiles"].items()
    if len(percentiles) != _PERCENTILES and (percentiles or seconds):
        raise ResultsError(
            f"it is damaged: {each['percentiles'].path} has {len(percentiles)} items, and not {_PERCENTILES}"
        )
    fairness, statements = each["fairness"].or_none(), each["statements"].or_none()
    return Round(
        outcome=each["outcome"].one_of(get_args(Outcome)),  # type: ignore[arg-type]
        detail=each["detail"].text(),
        operations=each["operations"].count(),
        seconds=seconds.positive() if seconds else None,
        percentiles=tuple(value.number() for value in percentiles),
        connects=each["connects"].count(),
        wrong=each["wrong"].count(),
        shared=each["shared"].count(),
        errors=each["errors"].count(),
        timeouts=each["timeouts"].count(),
        hung=each["hung"].count(),
        fairness=fairness.number() if fairness else None,
        statements=statements.count() if statements else None,
    )


def _number_or_none(value: Value) -> float | None:
    return None if value.or_none() is None else value.number()
