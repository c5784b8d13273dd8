"""Runs all suites, writes the results and the charts, and says which targets are met.

    python -m benchmarks.publish [--rounds 8] [--duration 0.4] [--suite NAME] [--no-charts]
    python -m benchmarks.publish --from benchmarks/results/FILE.json

Some five minutes, on a machine that has nothing else to do. The second form measures nothing and draws anew.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.record import Record
from benchmarks.suites import SUITES, Servers
from benchmarks.targets import TARGETS
from pidpool.bench.chart import Bar, Panel, draw, number, scale
from pidpool.bench.figures import Spread
from pidpool.bench.results import damage, load_average
from pidpool.bench.verdicts import counted
from pidpool.hazards import embedded

if TYPE_CHECKING:
    from benchmarks.targets import Verdict

ROOT = Path(__file__).parents[1]

CHARTS = {
    "checkout": ("What a pool costs: one checkout and checkin", ("checkout", "psycopg")),
    "query": ("A query through the pool", ("query",)),
    "contended": ("Many threads, few connections: time of a turn", ("contended", "crowded")),
    "fork": ("Forked children: time to a right answer", ("fork", "storm")),
}
"""Name of the file, title, suites."""


def main() -> int:
    """Measure, write, draw, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="how often each pool has its turn (default 8)")
    parser.add_argument("--duration", type=float, default=0.4, help="how long a round measures (seconds, default 0.4)")
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this one; repeatable")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="where results go")
    parser.add_argument("--charts", type=Path, default=ROOT / "docs" / "charts", help="where charts go")
    parser.add_argument("--no-charts", action="store_true", help="draw none, as for other versions than those shown")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="take these results, measure nothing")
    arguments = parser.parse_args()

    if arguments.source:
        record = Record.read(arguments.source)
    else:
        record = measure(arguments.suite or list(SUITES), arguments.rounds, arguments.duration)
        arguments.results.mkdir(parents=True, exist_ok=True)
        record.write(arguments.results / f"{record.key}.json")
    if not arguments.no_charts:
        arguments.charts.mkdir(parents=True, exist_ok=True)
        for name, (title, suites) in CHARTS.items():
            if any(suite in record.played for suite in suites):
                (arguments.charts / f"{name}.svg").write_text(chart(record, title, suites), encoding="utf-8")
    table = as_markdown(record)
    sys.stdout.write(table)
    if not arguments.source:
        (arguments.results / f"{record.key}.md").write_text(table, encoding="utf-8")
    return 0


def measure(suites: list[str], rounds: int, duration: float) -> Record:
    """Start the servers, play all rounds and stop the servers."""
    record = Record.begin(rounds, duration)
    started = time.monotonic()
    say(f"{circumstances(record)}; {rounds} rounds of {duration:g} s")
    with ExitStack() as stack:
        servers = Servers(stack.enter_context(embedded.postgresql()), mariadb(stack))
        for name in suites:
            suite = SUITES[name]
            for pool, place, played in suite.rounds(servers, rounds, duration):
                record.add(suite, pool, place, played)
                say(f"[{time.monotonic() - started:4.0f} s] {name}, {pool}: {_ending(record, name, pool)}")
    record.seconds = time.monotonic() - started
    record.load_after = load_average()
    return record


def mariadb(stack: ExitStack) -> str:
    """Start a MariaDB as the tests do and return its URL, or nothing if there is none here."""
    from tests.servers import MariaDB  # noqa: PLC0415 - only who measures needs the tests' drivers
    from tests.servers.keeper import Keeper  # noqa: PLC0415
    from tests.servers.mariadb import run_mariadb  # noqa: PLC0415

    if not MariaDB.available():
        say("no MariaDB here: what needs one is not measured")
        return ""
    keeper = Keeper()
    stack.callback(keeper.finish)
    server = MariaDB(keeper.run_folder)
    address = server.start()
    stack.callback(server.remove)
    run_mariadb(address, "SET GLOBAL max_connections = 1200")  # the suite *discard* wants a thousand
    return address.url("pymysql")


def chart(record: Record, title: str, suites: tuple[str, ...]) -> str:
    """Return the chart of some suites."""
    return draw(title, f"{circumstances(record)}, {record.rounds} rounds", [_panel(record, name) for name in suites])


def circumstances(record: Record) -> str:
    """Return the versions that matter, and the machine."""
    names = {"pidpool": "pidpool", "python": "Python", "sqlalchemy": "SQLAlchemy", "psycopg": "psycopg"}
    versions = [f"{name} {record.versions[key]}" for key, name in names.items() if key in record.versions]
    load = "" if record.load_before is None else f", load {record.load_before}"
    return f"{', '.join(versions)}, {record.cores} cores{load}"


def as_markdown(record: Record) -> str:
    """Return the targets, and below them the times of all pools."""
    rows = [target.verdict(record) for target in TARGETS]
    lines = [
        f"{circumstances(record)}, {record.rounds} rounds of {record.duration:g} s.",
        "",
        "| against | measured | half of the rounds | target | |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {row.against} | {_measured(row)} | {row.target} | {_MET[row.is_met]} |" for row in rows),
        "",
        "| suite | pool | time | half of the rounds | connects | wrong | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for suite, pools in record.played.items():
        lines += [f"| {suite} | {pool} | {' | '.join(_times(record, suite, pool))} |" for pool in pools]
    return "\n".join(lines) + "\n"


_MET = {True: "met", False: "**missed**", None: "not measured"}


def _measured(row: Verdict) -> str:
    if row.measured is None:
        return "- | -"
    return f"{row.measured.median:.3f} | {row.measured.low:.3f} to {row.measured.high:.3f}"


def _times(record: Record, suite: str, pool: str) -> tuple[str, ...]:
    rounds = record.of(suite, pool)
    connects, wrong = sum(each.connects for each in rounds), sum(each.wrong + each.shared for each in rounds)
    spread = record.spread(suite, pool)
    if spread is None:
        return ("-", "-", str(connects), str(wrong), _why(record, suite, pool))
    factor, unit = scale(spread.median)
    half = f"{number(spread.low * factor)} to {number(spread.high * factor)} {unit}"
    shares = [each.fairness for each in rounds if each.fairness is not None]
    fairness = f"fairness {Spread.of(shares).median:.2f}" if shares else ""
    return (f"{number(spread.median * factor)} {unit}", half, str(connects), str(wrong), fairness)


def _why(record: Record, suite: str, pool: str) -> str:
    rounds = record.of(suite, pool)
    return counted(damage(rounds)) or "; ".join(sorted({each.detail for each in rounds if each.detail})) or "no figure"


def _ending(record: Record, suite: str, pool: str) -> str:
    spread = record.spread(suite, pool)
    return _why(record, suite, pool) if spread is None else f"{number(spread.median * 1e6)} µs"


def _panel(record: Record, name: str) -> Panel:
    suite = SUITES[name]
    spreads = {pool: record.spread(name, pool) for pool in suite.pools}
    factor, unit = scale(max((spread.high for spread in spreads.values() if spread), default=1.0))
    bars = []
    for place, (pool, spread) in enumerate(spreads.items()):
        rounds = record.of(name, pool)
        if spread is None:
            bars.append(Bar(pool, None, _why(record, name, pool), "harm" if damage(rounds) else "other"))
            continue
        shares = [each.fairness for each in rounds if each.fairness is not None]
        note = f"(fairness {Spread.of(shares).median:.2f})" if shares else ""
        scaled = Spread(spread.median * factor, spread.low * factor, spread.high * factor)
        bars.append(Bar(pool, scaled, note, "other" if place else "ours"))
    return Panel(suite.title, f"{unit} a {suite.operation}", tuple(bars))


def say(line: str) -> None:
    """Show how far we have come, beside the results."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
