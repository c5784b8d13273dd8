"""Measures every suite in this environment and writes the results.

    python -m benchmarks.publish [--quick] [--suite NAME] [--rounds 8] [--duration 0.4]

Some six minutes, on a machine that has nothing else to do; with --quick two, to see that everything works. An
environment is a version of Python with one of SQLAlchemy, and has a file of its own. `python -m benchmarks.report`
makes documents and charts of all these files; `tox -m publish` does both for every environment.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.record import Record
from benchmarks.suites import SUITES, Servers
from pidpool.bench.chart import number
from pidpool.bench.circumstances import load_average
from pidpool.hazards import embedded, reach

_FULL = (8, 0.4)
_QUICK = (6, 0.1)  # the fewest rounds from which anything can be told


def main() -> int:
    """Measure, write, and show what has come out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short rounds: a rehearsal")
    parser.add_argument("--rounds", type=int, help=f"how often each pool has its turn (default {_FULL[0]})")
    parser.add_argument("--duration", type=float, help=f"how long a round measures (seconds, default {_FULL[1]})")
    parser.add_argument(
        "--suite", action="append", choices=SUITES, help="only this one, and keep the others; repeatable"
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="where results go")
    arguments = parser.parse_args()
    rounds, duration = _QUICK if arguments.quick else _FULL

    with ExitStack() as stack:
        servers = Servers(stack.enter_context(embedded.postgresql()), mariadb(stack))
        record = Record.begin(
            arguments.rounds or rounds,
            arguments.duration or duration,
            is_quick=arguments.quick,
            servers=versions(servers),
        )
        file = arguments.results / f"{record.key}.json"
        earlier = Record.read(file) if file.exists() else None
        if earlier and arguments.quick and not earlier.is_quick:
            parser.error(f"{file} is no rehearsal: name another folder with --results")
        if earlier and arguments.suite and not record.keep(earlier):
            parser.error(f"{file} is of other versions, rounds or durations: its suites cannot be kept")
        measure(record, servers, arguments.suite or list(SUITES))
    arguments.results.mkdir(parents=True, exist_ok=True)
    record.write(file)
    sys.stdout.write(f"{report.targets([record])}\n{report.times(record)}")
    return 0


def measure(record: Record, servers: Servers, suites: list[str]) -> None:
    """Play all rounds of these suites."""
    started = time.monotonic()
    say(f"{report.circumstances(record)}; {record.rounds} rounds of {record.duration:g} s")
    for name in suites:
        record.played.pop(name, None)
        for pool, place, played in SUITES[name].rounds(servers, record.rounds, record.duration):
            record.add(SUITES[name], pool, place, played)
            spread = record.spread(name, pool)
            so_far = f"{number(spread.median * 1e6)} µs" if spread else report.why(record, name, pool)
            say(f"[{time.monotonic() - started:4.0f} s] {name}, {pool}: {so_far}")
    record.seconds = time.monotonic() - started
    record.load_after = load_average()


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


def versions(servers: Servers) -> dict[str, str]:
    """Return what the servers say of themselves."""
    urls = {"postgresql": servers.postgresql, "mariadb": servers.mariadb}
    return {name: reach(url).server_version for name, url in urls.items() if url}


def say(line: str) -> None:
    """Show how far we have come, beside the results."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
