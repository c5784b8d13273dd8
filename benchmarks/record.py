"""What was measured in one environment: under which circumstances, every round, and the JSON file of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pidpool.bench import Round, circumstances
from pidpool.bench.figures import Spread
from pidpool.bench.results import damage

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.suites import Suite

SCHEMA = "pidpool-benchmarks/2"

_PACKAGES = ("psycopg", "psycopg-pool", "DBUtils", "PyMySQL", "Django", "django-db-connection-pool")
_NOTHING = Round("done")


@dataclass
class Record:
    """What was measured in one environment."""

    versions: dict[str, str]
    cores: int
    load_before: float | None
    rounds: int
    duration: float
    is_quick: bool = False
    """Whether it was only to see that everything works."""
    load_after: float | None = None
    seconds: float = 0.0
    """How long it took."""
    day: str = ""
    played: dict[str, dict[str, dict[int, Round]]] = field(default_factory=dict)
    """Suite, pool, number of the round."""

    @classmethod
    def begin(cls, rounds: int, duration: float, *, is_quick: bool, servers: dict[str, str]) -> Record:
        """Note down the circumstances, and the versions of the `servers`."""
        versions = {**circumstances.versions(packages=_PACKAGES), **servers}
        day = datetime.now(timezone.utc).date().isoformat()
        load = circumstances.load_average()
        return cls(versions, circumstances.cores(), load, rounds, duration, is_quick, day=day)

    @property
    def series(self) -> tuple[str, str]:
        """Python's and SQLAlchemy's version, such as "3.11" and "2.1": what tells this environment from others."""
        python, sqlalchemy = (".".join(self.versions[name].split(".")[:2]) for name in ("python", "sqlalchemy"))
        return python, sqlalchemy

    @property
    def key(self) -> str:
        """The environment as tox calls it, and as the file is called: "py311-sa21"."""
        return "py{}-sa{}".format(*self.series).replace(".", "")

    @property
    def name(self) -> str:
        """The environment for people."""
        return "Python {}, SQLAlchemy {}".format(*self.series)

    def keep(self, earlier: Record) -> bool:
        """Take over the suites of an `earlier` record that this one does not have; return whether they belong here.

        They do if everything that might change a figure was the same.
        """
        ours, theirs = ((each.versions, each.cores, each.rounds, each.duration) for each in (self, earlier))
        if ours != theirs:
            return False
        self.played = {**earlier.played, **self.played}
        return True

    def add(self, suite: Suite, pool: str, number: int, played: Round) -> None:
        """Note down a round."""
        self.played.setdefault(suite.name, {}).setdefault(pool, {})[number] = played

    def pools(self, suite: str) -> list[str]:
        """Return the pools that had a turn in a suite."""
        return list(self.played.get(suite, {}))

    def of(self, suite: str, pool: str) -> list[Round]:
        """Return the rounds of a pool in a suite."""
        return list(self.played.get(suite, {}).get(pool, {}).values())

    def clean(self, suite: str, pool: str) -> list[Round]:
        """Return those of them whose times count: none if the pool did anything wrong."""
        rounds = self.of(suite, pool)
        return [] if damage(rounds) else [each for each in rounds if each.is_clean]

    def spread(self, suite: str, pool: str) -> Spread | None:
        """Return how long an operation took (seconds)."""
        times = [each.seconds or 0.0 for each in self.clean(suite, pool)]
        return Spread.of(times) if times else None

    def ratios(self, suite: str, pool: str, base: str) -> list[float]:
        """Return what `pool` took as a share of what `base` took, round by round."""
        pools = self.played.get(suite, {})
        if not self.clean(suite, pool) or not self.clean(suite, base):
            return []
        return [
            (played.seconds or 0.0) / (pools[base][number].seconds or 1.0)
            for number, played in pools[pool].items()
            if played.is_clean and number in pools[base] and pools[base][number].is_clean
        ]

    def write(self, path: Path) -> None:
        """Write everything to `path`, but for the percentiles and what says nothing; a line for each round."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "day": self.day,
            "versions": self.versions,
            "machine": {"cores": self.cores, "load_before": self.load_before, "load_after": self.load_after},
            "settings": {"rounds": self.rounds, "duration": self.duration, "quick": self.is_quick},
            "seconds": round(self.seconds, 1),
        }
        rounds = [
            json.dumps({"suite": suite, "pool": pool, "number": number, **_telling(played)}, ensure_ascii=False)
            for suite, pools in self.played.items()
            for pool, by_number in pools.items()
            for number, played in by_number.items()
        ]
        head = json.dumps(content, indent=1, ensure_ascii=False).removesuffix("\n}")
        lines = ",\n  ".join(rounds)
        path.write_text(f'{head},\n "rounds": [\n  {lines}\n ]\n}}\n', encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Return what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"{path} has the layout {content['schema']!r}, not {SCHEMA!r}")
        machine, settings = content["machine"], content["settings"]
        record = cls(
            versions=content["versions"],
            cores=machine["cores"],
            load_before=machine["load_before"],
            rounds=settings["rounds"],
            duration=settings["duration"],
            is_quick=settings["quick"],
            load_after=machine["load_after"],
            seconds=content["seconds"],
            day=content["day"],
        )
        for line in content["rounds"]:
            suite, pool, number = (line.pop(name) for name in ("suite", "pool", "number"))
            record.played.setdefault(suite, {}).setdefault(pool, {})[number] = Round.from_json(line)
        return record


def _telling(played: Round) -> dict[str, Any]:
    """Return the fields that have another value than usual."""
    short = replace(played, percentiles=())
    values = {each.name: getattr(short, each.name) for each in fields(Round)}
    usual = {each.name: getattr(_NOTHING, each.name) for each in fields(Round)}
    return {name: value for name, value in values.items() if name == "outcome" or value != usual[name]}
