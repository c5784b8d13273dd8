"""``pidpool audit``: does this pool survive fork, here?"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, get_args

import click

from pidpool import hazards
from pidpool.cli import database, files, options
from pidpool.cli.campaign import Plan, carry_out
from pidpool.cli.errors import CommandError
from pidpool.cli.interrupts import Interrupted
from pidpool.cli.pools import subjects
from pidpool.cli.report import WORDS, Report, Settings, is_finding

if TYPE_CHECKING:
    from pathlib import Path

    from pidpool.cli.database import Terminal
    from pidpool.hazards import Hazard, Needs

DEFAULT_POOLS = ("pidpool", "queuepool", "queuepool+dispose-noclose")
DEFAULT_CLIENTS = ("pidpool", "redis-py", "redis-py+disconnect")
"""The same for a Redis URL."""


@click.command(short_help="Does my pool survive fork?")
@options.url("PIDPOOL_AUDIT_URL")
@options.pools(
    "test",
    "The exit code judges the first one.",
    f"{', '.join(DEFAULT_POOLS)}; for Redis: {', '.join(DEFAULT_CLIENTS)}",
)
@click.option(
    "--only",
    multiple=True,
    metavar="HAZARD",
    help="Run these hazards alone; repeatable, or separated by commas.  [default: all that fit the URL]",
)
@click.option(
    "--list", "listing", is_flag=True, help="List the hazards and the pools, with a URL those that fit it, and end."
)
@click.option(
    "--explain",
    metavar="HAZARD",
    help="Tell a hazard's story, what to do, and the code that provokes it; and end.",
)
@options.json("the results")
@options.markdown("the matrix")
@click.option(
    "--timeout",
    type=options.Seconds(min=1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one scenario may take before it counts as hanging.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    metavar="N",
    help="Scenarios at a time.",
)
@click.pass_obj
def audit(  # noqa: PLR0913  (one parameter for each option: that is how click calls)
    terminal: Terminal,
    *,
    url: str | None,
    pools: tuple[str, ...],
    only: tuple[str, ...],
    listing: bool,
    explain: str | None,
    json_file: Path | None,
    markdown_file: Path | None,
    timeout: float,
    jobs: int,
) -> int:
    """Fork in every way that is known to break a connection pool, and ask the server what was lost.

    URL is an SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database, or that of a Redis
    server, such as redis://host:6379/0. Without one a throw-away PostgreSQL is started, and removed
    afterwards. PIDPOOL_AUDIT_URL in the environment serves as well, and keeps the password out of the list of
    processes. The audit works in a schema, tables or keys of its own, and removes them.

    Exit code: 0 if the first pool is safe throughout, 1 if not, 2 if the audit (or a scenario with the first
    pool) could not be carried out, 128+n if signal n ended it: 130 for Ctrl-C.
    """
    renderer, interrupts = terminal
    if listing:
        kinds: tuple[Needs, ...] = (hazards.kind_of(url),) if url else get_args(hazards.Needs)
        fitting = [hazard for hazard in hazards.CATALOGUE.values() if hazard.needs in kinds]
        renderer.catalogue(fitting, {kind: hazards.subjects_for(kind) for kind in kinds})
        return 0
    if explain is not None:
        renderer.explanation(_hazard(explain))
        return 0
    chosen = options.chosen("--only", "hazard", only, hazards.CATALOGUE, hazards.hazard)
    kind = hazards.kind_of(url)
    if not only:
        chosen = tuple(hazard for hazard in chosen if hazard.needs == kind)
    defaults = DEFAULT_CLIENTS if kind == "client" else DEFAULT_POOLS
    plan = Plan(chosen, subjects(pools or defaults, kind), timeout, jobs)
    files.check_outputs(json_file, markdown_file)

    report = _run(plan, url, terminal)
    # Files first, because nobody may be reading stdout any more; but a full disk does not cost the matrix.
    try:
        if json_file:
            files.write(json_file, report.as_json())
        if markdown_file:
            files.write(markdown_file, report.as_markdown())
    finally:
        renderer.report(report)
    if interrupts.received:
        return interrupts.received.exit_code
    first = plan.subjects[0].name
    if report.is_unsafe:
        return 1
    if report.has_errors:
        raise CommandError(f"Not every scenario could be played with {first}: whether it is safe is not known.")
    if not report.is_proven:
        raise CommandError(f"Nothing was tested: every row was skipped for {first}.")
    return 0


def _run(plan: Plan, url: str | None, terminal: Terminal) -> Report:
    """Return the verdicts on every combination, or on as many as there are when a signal ends the run."""
    renderer, interrupts = terminal
    report: Report | None = None
    started = time.monotonic()
    try:
        with database.until_done(interrupts) as resources:
            target = database.find(url, resources, terminal, with_corner=True)
            report = Report(Settings.of(plan, target), plan.hazards)
            renderer.settings(report.settings)
            with renderer.progress(len(plan)) as display, closing(carry_out(plan, target)) as verdicts:
                for verdict in verdicts:
                    report.verdicts.append(verdict)
                    name = f"{verdict.hazard}, {verdict.subject}"
                    ending = f"{WORDS[verdict.outcome]} ({verdict.seconds:.1f} s)"
                    display.advance(name, ending, is_finding=is_finding(verdict))
    except Interrupted as interrupted:
        if report is None:
            raise
        report.interrupted = True
        renderer.notice(str(interrupted))
    report.seconds = time.monotonic() - started
    return report


def _hazard(name: str) -> Hazard:
    try:
        return hazards.hazard(name)
    except hazards.UnknownHazard as error:
        raise CommandError(str(error)) from error
