"""``pidpool bench``: how fast is this pool, here? And ``pidpool bench compare``: has that changed?"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from pidpool import bench as benches
from pidpool import hazards
from pidpool.bench import chart, circumstances
from pidpool.bench.verdicts import counted
from pidpool.cli import bench_report, database, files, options
from pidpool.cli.errors import CommandError
from pidpool.cli.interrupts import Interrupted
from pidpool.cli.pools import pools as found

if TYPE_CHECKING:
    from pathlib import Path

    from pidpool.bench import Plan, Results, Round
    from pidpool.cli.database import Terminal

DEFAULT_POOLS = ("pidpool", "queuepool")


class _Bench(click.Command):
    """``pidpool bench [URL]``; only if the first word is ``compare``, it is that command."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401
    ) -> click.Context:
        """Parse for the command that is meant."""
        if args[:1] == [compare.name]:
            return compare.make_context(f"{info_name} {compare.name}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(
    cls=_Bench,
    short_help="How fast is my pool?",
    epilog="'pidpool bench compare BEFORE AFTER' compares two files of --json; see its own --help.",
)
@options.url("PIDPOOL_BENCH_URL")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    metavar="NAME",
    help=f"What to measure; repeatable, or separated by commas.  [default: {', '.join(benches.WORKLOADS)}]",
)
@options.pools("measure", "The first one is compared with each of the others.", ", ".join(DEFAULT_POOLS))
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="contended: threads that want one of N/4 connections.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1, max=100),
    default=8,
    show_default=True,
    metavar="N",
    help="storm: children that are forked at once.",
)
@click.option(
    "--duration",
    type=options.Seconds(min=0.01, max=600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="How long a round measures.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="How often each pool has its turn; differences are significant from 6 rounds on.",
)
@options.json("settings and every round")
@options.markdown("the table")
@click.option("--chart", "chart_file", type=options.FILE, metavar="FILE.svg", help="Write a chart, for light and dark.")
@click.pass_obj
def bench(  # noqa: PLR0913  (one parameter for each option: that is how click calls)
    terminal: Terminal,
    *,
    url: str | None,
    workloads: tuple[str, ...],
    pools: tuple[str, ...],
    threads: int,
    processes: int,
    duration: float,
    rounds: int,
    json_file: Path | None,
    markdown_file: Path | None,
    chart_file: Path | None,
) -> int:
    """Measure pools side by side, on your database.

    URL is an SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database. Without one a
    throw-away PostgreSQL is started, and removed afterwards. PIDPOOL_BENCH_URL in the environment serves as
    well, and keeps the password out of the list of processes. The bench creates nothing in the database.

    Each answer is checked: a pool that gives a wrong one is never called faster.

    Exit code: 0 when everything was measured, 2 if it could not be, 128+n if signal n ended it: 130 for Ctrl-C.
    """
    renderer, interrupts = terminal
    if hazards.kind_of(url) == "client":
        raise CommandError(
            "pidpool bench measures pools of SQL connections, and a Redis client brings a pool of its own. It takes an "
            "SQLAlchemy URL; pidpool audit takes that of a Redis server."
        )
    load = benches.Load(duration=duration, threads=threads, connections=max(1, threads // 4), processes=processes)
    chosen = options.chosen("--workload", "workload", workloads, benches.WORKLOADS, benches.workload)
    plan = benches.Plan(chosen, found(pools or DEFAULT_POOLS), rounds, load)
    files.check_outputs(json_file, markdown_file, chart_file)

    results = _run(plan, url, terminal)
    try:
        if json_file:
            files.write(json_file, results.as_json())
        if markdown_file:
            files.write(markdown_file, bench_report.as_markdown(results))
        if chart_file:
            files.write(chart_file, chart.of_results(results))
    finally:
        renderer.bench(results)
    if interrupts.received:
        return interrupts.received.exit_code
    if not any(played.round.operations for played in results.played):
        reasons = {played.round.detail for played in results.played if played.round.detail}
        raise CommandError(f"Nothing was measured: {'; '.join(sorted(reasons)) or 'no round came to an end'}.")
    return 0


@click.command()
@click.argument("before", type=options.FILE)
@click.argument("after", type=options.FILE)
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="METRIC:+N%",
    help=f"Exit with 1 if a metric ({', '.join(benches.METRICS)}) of any pool in any workload is worse by more than "
    "N per cent and the difference is significant, if a pool does wrong what it did right before, or if AFTER lacks "
    "what BEFORE has measured; repeatable.",
)
@click.pass_obj
def compare(terminal: Terminal, *, before: Path, after: Path, conditions: tuple[str, ...]) -> int:
    """Compare two files that 'pidpool bench --json' has written.

    Exit code: 0, 1 if a condition of --fail-if is met, 2 if the files or the conditions are unusable.
    """
    renderer, _ = terminal
    try:
        wanted = tuple(benches.Condition.parse(text) for text in conditions)
    except benches.ConditionError as error:
        raise CommandError(str(error)) from error
    first, second = _read(before), _read(after)
    comparison = benches.Comparison.of(first, second)
    if not comparison.changes and not comparison.new_damage:
        raise CommandError(f"{before} and {after} have measured nothing in common that can be compared.")
    offences = comparison.offences(wanted)
    renderer.comparison(comparison, offences)
    return 1 if offences else 0


def _run(plan: Plan, url: str | None, terminal: Terminal) -> Results:
    """Return all rounds, or as many as there are when a signal ends the run."""
    renderer, interrupts = terminal
    results: Results | None = None
    started = time.monotonic()
    try:
        with database.until_done(interrupts) as resources:
            target = database.find(url, resources, terminal, with_corner=False) if plan.needs_server else None
            results = benches.Results(benches.Settings.of(plan, target))
            renderer.facts(bench_report.facts(results.settings))
            with renderer.progress(len(plan)) as display, closing(benches.play(plan, target)) as rounds:
                for played in rounds:
                    results.played.append(played)
                    name = f"{played.workload}, {played.pool}"
                    display.advance(name, _ending(played.round), is_finding=bool(played.round.damage))
    except Interrupted as interrupted:
        if results is None:
            raise
        results.interrupted = True
        renderer.notice(str(interrupted))
    results.seconds = time.monotonic() - started
    results.load_average_after = circumstances.load_average()
    return results


def _ending(played: Round) -> str:
    if played.damage:
        return ", ".join(filter(None, [counted(played.damage), played.detail]))
    return played.detail or played.outcome if played.seconds is None else bench_report.duration(played.seconds)


def _read(path: Path) -> Results:
    try:
        return benches.Results.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (benches.ResultsError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be used: {error}.") from error
