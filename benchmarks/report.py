"""Writes docs/performance.md, docs/charts/ and the README's section on performance, from what was measured.

    python -m benchmarks.report

The results are those in benchmarks/results, a file for each environment. This measures nothing: `python -m
benchmarks.publish` does. The reason why a target is missed stands beside it, in targets.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.record import Record
from benchmarks.suites import SUITES
from benchmarks.targets import TARGETS
from pidpool.bench.chart import Bar, Panel, draw, number, scale
from pidpool.bench.figures import Spread
from pidpool.bench.results import damage
from pidpool.bench.verdicts import counted

if TYPE_CHECKING:
    from benchmarks.targets import Target, Verdict

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"

SHOWN = "py311-sa21"
"""The environment that the charts are of; if it was not measured, the first one."""

CHARTS = {
    "checkout": ("What a pool costs: one checkout and checkin", ("checkout", "psycopg", "pymysql")),
    "query": ("A query through the pool", ("query",)),
    "contended": ("Many threads, few connections: time of a turn", ("contended", "crowded", "yielding")),
    "fork": ("Forked children: time to a right answer", ("fork", "storm")),
}
"""Name of the file, title, suites."""


def main() -> int:
    """Write everything, and say how many targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    records = read()
    if not records:
        parser.error(f"{RESULTS} has no results: run `tox -m publish`, or `python -m benchmarks.publish`")
    for path, content in files(records).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    for record in records:
        rows = [target.verdict(record).is_met for target in TARGETS]
        sys.stdout.write(f"{record.name}: {rows.count(True)} of {len(rows)} targets are met\n")
    for target in without_reason(records):
        sys.stderr.write(f"Missed, and targets.py gives no reason: {target.against}\n")
    return 0


def read() -> list[Record]:
    """Return all records, by the names of their files."""
    return [Record.read(path) for path in sorted(RESULTS.glob("*.json"))]


def files(records: list[Record]) -> dict[Path, str]:
    """Return what is to be written."""
    record = shown(records)
    charts = {PAGE.parent / "charts" / f"{name}.svg": chart(record, *CHARTS[name]) for name in CHARTS}
    return {**charts, PAGE: page(records), README: with_section(README.read_text(encoding="utf-8"), records)}


def shown(records: list[Record]) -> Record:
    """Return the record that the charts are of."""
    return next((record for record in records if record.key == SHOWN), records[0])


def with_section(readme: str, records: list[Record]) -> str:
    """Return `readme` with the section on performance as these records have it."""
    marked = re.compile(r"(<!-- performance:begin [^>]*-->\n).*?(<!-- performance:end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}{section(records)}{found[2]}", readme, count=1)


def section(records: list[Record]) -> str:
    """Return what the README shows."""
    of = [
        f"{number(Spread.of(ratios).median)} ({record.name})"
        for record in records
        if (ratios := record.ratios("checkout", "pidpool", "queuepool"))
    ]
    rehearsal = "*From a rehearsal, on a busy machine.* " if any(record.is_quick for record in records) else ""
    return (
        f"{rehearsal}A checkout and checkin takes this share of `QueuePool`'s time: {'; '.join(of)}.\n\n"
        f"![{CHARTS['checkout'][0]}](docs/charts/checkout.svg)\n\n"
        f"![{CHARTS['fork'][0]}](docs/charts/fork.svg)\n\n"
        "All figures, what they should be, and where they fall short: [docs/performance.md](docs/performance.md).\n"
    )


def page(records: list[Record]) -> str:
    """Return docs/performance.md."""
    parts = [
        "# Performance",
        "<!-- Written by `python -m benchmarks.report` from benchmarks/results; change it there. -->",
        _INTRODUCTION,
    ]
    if quick := [record.name for record in records if record.is_quick]:
        parts.append(f"**Rehearsed only, with few and short rounds, not published: {'; '.join(quick)}.**")
    parts += ["## Targets", targets(records).rstrip("\n")]
    if missed := _missed(records):
        parts += ["## What is missed, and why", "\n".join(f"- {each}" for each in missed)]
    parts += [f"## Charts\n\n{shown(records).name}."]
    parts += [f"![{title}](charts/{name}.svg)" for name, (title, _) in CHARTS.items()]
    for record in records:
        parts += [f"## {record.name}: all times", f"{circumstances(record)}.", times(record).rstrip("\n")]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = (
    "Ratios of times that were measured in turn, in the same minutes on the same machine: medians, with the range of "
    "half of the rounds. [benchmarks/README.md](../benchmarks/README.md) tells the method. *Not significant*: the "
    "rounds do not tell on which side of the target the figure is."
)


def targets(records: list[Record]) -> str:
    """Return the table of targets, a column for each record."""
    lines = [
        f"| PidPool against | target | {' | '.join(record.name for record in records)} |",
        f"| --- | --- |{' --- |' * len(records)}",
    ]
    for target in TARGETS:
        verdicts = [target.verdict(record) for record in records]
        limits = " or ".join(dict.fromkeys(verdict.target for verdict in verdicts))
        cells = " | ".join(_cell(target, verdict) for verdict in verdicts)
        lines.append(f"| {target.against} | {limits} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(target: Target, verdict: Verdict) -> str:
    figure = verdict.measured
    if figure is None:
        return verdict.words
    if target.is_count:
        return f"{figure.median:g}: {verdict.words}"
    return f"{number(figure.median)}{target.unit} ({number(figure.low)} to {number(figure.high)}): {verdict.words}"


def _missed(records: list[Record]) -> list[str]:
    """Return a line for each target that is missed somewhere."""
    lines = []
    for target in TARGETS:
        where = [record.name for record in records if target.verdict(record).is_met is False]
        if where:
            lines.append(f"{target.against} ({'; '.join(where)}): {target.reason or 'the reason is not known yet.'}")
    return lines


def without_reason(records: list[Record]) -> list[Target]:
    """Return the targets that are missed, and nobody has said why."""
    return [
        target
        for target in TARGETS
        if not target.reason and any(target.verdict(record).is_met is False for record in records)
    ]


def times(record: Record) -> str:
    """Return the times of all pools."""
    lines = [
        "| suite | pool | time | half of the rounds | connects | wrong | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for suite in SUITES:
        lines += [f"| {suite} | {pool} | {' | '.join(_times(record, suite, pool))} |" for pool in record.pools(suite)]
    titles = [f"- *{name}*: {suite.title}; time of a {suite.operation}" for name, suite in SUITES.items()]
    return "\n".join([*lines, "", *titles]) + "\n"


def _times(record: Record, suite: str, pool: str) -> tuple[str, ...]:
    rounds = record.of(suite, pool)
    connects, wrong = sum(each.connects for each in rounds), sum(each.wrong + each.shared for each in rounds)
    spread = record.spread(suite, pool)
    if spread is None:
        return ("-", "-", str(connects), str(wrong), why(record, suite, pool))
    factor, unit = scale(spread.median)
    half = f"{number(spread.low * factor)} to {number(spread.high * factor)} {unit}"
    return (f"{number(spread.median * factor)} {unit}", half, str(connects), str(wrong), _fairness(record, suite, pool))


def _fairness(record: Record, suite: str, pool: str) -> str:
    shares = [each.fairness for each in record.of(suite, pool) if each.fairness is not None]
    return f"fairness {Spread.of(shares).median:.2f}" if shares else ""


def why(record: Record, suite: str, pool: str) -> str:
    """Return why a pool has no time in a suite."""
    rounds = record.of(suite, pool)
    return counted(damage(rounds)) or "; ".join(sorted({each.detail for each in rounds if each.detail})) or "no figure"


def circumstances(record: Record) -> str:
    """Return when, with which versions and on which machine."""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if name not in _BY_NAME)
    servers = ", ".join(record.versions[name] for name in _BY_NAME if name in record.versions)
    loads = [str(load) for load in (record.load_before, record.load_after) if load is not None]
    load = f", load {' before and '.join(loads)}{' after' * (len(loads) > 1)}" if loads else ""
    took = f"; {record.rounds} rounds of {record.duration:g} s, {record.seconds:.0f} s in all" if record.seconds else ""
    return f"{record.day}: {versions}, {servers}; {record.cores} cores{load}{took}"


_BY_NAME = ("postgresql", "mariadb")
"""What says its name with its version."""


def chart(record: Record, title: str, suites: tuple[str, ...]) -> str:
    """Return the chart of some suites."""
    panels = [_panel(record, name) for name in suites if name in record.played]
    return draw(title, f"pidpool {record.versions['pidpool']}, {record.name}, {record.cores} cores", panels)


def _panel(record: Record, name: str) -> Panel:
    suite = SUITES[name]
    spreads = {pool: record.spread(name, pool) for pool in suite.pools}
    factor, unit = scale(max((spread.high for spread in spreads.values() if spread), default=1.0))
    bars = []
    for place, (pool, spread) in enumerate(spreads.items()):
        if spread is None:
            bars.append(Bar(pool, None, why(record, name, pool), "harm" if damage(record.of(name, pool)) else "other"))
            continue
        scaled = Spread(spread.median * factor, spread.low * factor, spread.high * factor)
        fairness = _fairness(record, name, pool)
        bars.append(Bar(pool, scaled, f"({fairness})" if fairness else "", "other" if place else "ours"))
    return Panel(suite.title, f"{unit} a {suite.operation}", tuple(bars))


if __name__ == "__main__":
    sys.exit(main())
