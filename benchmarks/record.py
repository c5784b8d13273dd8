"""One run of all suites: under which circumstances, every round, and the JSON file of it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pidpool
from benchmarks.targets import TARGETS
from pidpool.bench import Round
from pidpool.bench.figures import Spread
from pidpool.bench.results import damage, load_average

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.suites import Suite

SCHEMA = "pidpool-benchmarks/1"

_PACKAGES = ("SQLAlchemy", "psycopg", "psycopg-pool", "DBUtils", "PyMySQL", "Django", "django-db-connection-pool")


@dataclass
class Record:
    """One run of all suites."""

    versions: dict[str, str]
    cores: int
    load_before: float | None
    rounds: int
    duration: float
    load_after: float | None = None
    seconds: float = 0.0
    played: dict[str, dict[str, dict[int, Round]]] = field(default_factory=dict)
    """Suite, pool, number of the round."""

    @classmethod
    def begin(cls, rounds: int, duration: float) -> Record:
        """Note down the circumstances."""
        versions = {
            "pidpool": pidpool.__version__,
            "python": platform.python_version(),
            "kernel": f"{platform.system()} {platform.release()}",
        }
        for package in _PACKAGES:
            try:
                versions[package.lower()] = version(package)
            except PackageNotFoundError:
                continue
        return cls(versions, os.cpu_count() or 1, load_average(), rounds, duration)

    @property
    def key(self) -> str:
        """What tells this record from those with other versions; the name of its file."""
        python = ".".join(self.versions["python"].split(".")[:2])
        sqlalchemy = ".".join(self.versions["sqlalchemy"].split(".")[:2])
        return f"cpython{python}-sqlalchemy{sqlalchemy}"

    def add(self, suite: Suite, pool: str, number: int, played: Round) -> None:
        """Note down a round."""
        self.played.setdefault(suite.name, {}).setdefault(pool, {})[number] = played

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
        """Write everything to `path`."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "versions": self.versions,
            "machine": {"cores": self.cores, "load_before": self.load_before, "load_after": self.load_after},
            "settings": {"rounds": self.rounds, "duration": self.duration},
            "seconds": round(self.seconds, 1),
            "targets": [
                {
                    "against": row.against,
                    "measured": row.measured and [row.measured.median, row.measured.low, row.measured.high],
                    "target": row.target,
                    "met": row.is_met,
                }
                for row in (target.verdict(self) for target in TARGETS)
            ],
            "rounds": [
                {"suite": suite, "pool": pool, "number": number, **played.as_json()}
                for suite, pools in self.played.items()
                for pool, rounds in pools.items()
                for number, played in rounds.items()
            ],
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Return what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"{path} has the layout {content['schema']!r}, not {SCHEMA!r}")
        machine, settings = content["machine"], content["settings"]
        record = cls(
            content["versions"],
            machine["cores"],
            machine["load_before"],
            settings["rounds"],
            settings["duration"],
            machine["load_after"],
            content["seconds"],
        )
        for fields in content["rounds"]:
            suite, pool, number = (fields.pop(name) for name in ("suite", "pool", "number"))
            record.played.setdefault(suite, {}).setdefault(pool, {})[number] = Round.from_json(fields)
        return record
