"""The one place that prints: results to stdout, progress and complaints to stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from pidpool.bench import circumstances
from pidpool.bench.verdicts import sentences, warnings
from pidpool.cli import bench_report
from pidpool.cli.redaction import hidden
from pidpool.cli.report import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Self

    from pidpool.bench import Comparison, Results
    from pidpool.cli.report import Report, Settings
    from pidpool.hazards import ClientSubject, Hazard, Needs, Subject, Verdict

_STYLES = {"safe": "green", "lost": "bold red", "hang": "bold magenta", "error": "bold yellow"}
_PROSE_WIDTH = 88
_UNLIMITED_WIDTH = 10_000


class Renderer:
    """Writes for the reader that is there: colours and a bar for a terminal, whole plain lines for a pipe."""

    def __init__(self) -> None:
        self._results = _console(sys.stdout)
        self._notices = _console(sys.stderr)

    def error(self, message: str, hint: str = "") -> None:
        """Say why the command ends here."""
        self._notices.print(Text.assemble(("pidpool: ", "bold red"), hidden(message)), soft_wrap=True)
        if hint:
            self.notice(hint)

    def notice(self, message: str) -> None:
        """Say what goes on, beside the results."""
        self._notices.print(Text(hidden(message)), soft_wrap=True)

    def catalogue(self, hazards: Iterable[Hazard], subjects: Mapping[Needs, Iterable[Subject | ClientSubject]]) -> None:
        """List what can be asked for by name: hazards, and for each kind of target what can be tested on it."""
        table = self._table("hazard", "the child ...")
        for hazard in hazards:
            table.add_row(hazard.name, hazard.title)
        self._results.print(table)
        # The same for all that SQLAlchemy connects to.
        pools = {kind if kind == "client" else "server": each for kind, each in subjects.items()}
        for kind, known in pools.items():
            self._results.print()
            table = self._table("pool", "what it is" + (", for Redis" if kind == "client" else ""))
            for subject in known:
                table.add_row(subject.name, subject.title)
            if kind != "client":
                table.add_row("module:Class", "a pool class of yours")
            made = "a client" if kind == "client" else "an Engine"
            table.add_row("module:function", f"a function of yours that takes a URL and returns {made}")
            self._results.print(table)

    def explanation(self, hazard: Hazard) -> None:
        """Tell a hazard's story: what happens, what to do, and the code that provokes it."""
        self._prose(Text.assemble((hazard.name, "bold"), f": the child {hazard.title}"))
        self._prose(Text(hazard.story))
        self._prose(Text.assemble(("The parent must ", "bold"), hazard.promise, "."))
        self._prose(Text.assemble(("What to do: ", "bold"), hazard.advice))
        self._prose(Text("The code that provokes it:", "bold"))
        source = hazard.source.rstrip()
        if self._results.color_system:
            # The terminal's own colours: readable on a light background as well as on a dark one.
            self._results.print(Syntax(source, "python", theme="ansi_dark", word_wrap=True))
        else:
            self._results.print(Text(source), soft_wrap=True)

    def settings(self, settings: Settings) -> None:
        """Show what is about to be tested, before it takes its time."""
        versions = settings.versions
        lines = {
            "target": settings.target,
            "server": versions["server"],
            "driver": f"{settings.driver} {versions['driver']}",
            "pools": ", ".join(settings.pools),
            "hazards": f"{len(settings.hazards)}, {settings.jobs} at a time, {settings.timeout:g} s at most",
            "versions": circumstances.software(versions),
            "machine": circumstances.machine(settings.cores, settings.load),
        }
        self.facts(lines)

    def facts(self, lines: Mapping[str, str]) -> None:
        """Show each line behind its name."""
        width = max(map(len, lines)) + 1
        for name, value in lines.items():
            self._results.print(Text.assemble((f"{name:<{width}}", "dim"), hidden(value)), soft_wrap=True)

    def progress(self, total: int) -> ProgressDisplay:
        """Return a display of how many of `total` steps are done: a bar for a terminal, lines for a log."""
        kind = _Bar if _is_interactive(self._notices) else _Lines
        return kind(self._notices, total)

    def report(self, report: Report) -> None:
        """Show the matrix, a sentence for each pool, and a line for each loss."""
        pools = report.settings.pools
        headings = pools if self._results.width == _UNLIMITED_WIDTH else map(_broken, pools)
        table = self._table("hazard", "the child ...", *headings)
        for hazard, cells in report.rows():
            table.add_row(hazard.name, hazard.title, *(_word(cell) for cell in cells))
        self._results.print()
        self._results.print(table)
        self._results.print()
        for sentence in report.summary():
            self._results.print(Text(sentence, "bold"), soft_wrap=True)
        for lines in (report.findings(), report.errors(), report.skipped()):
            if lines:
                self._results.print()
            for line in lines:
                self._results.print(Text(line), soft_wrap=True)

    def bench(self, results: Results) -> None:
        """Show the figures, what they come to, and what speaks against them."""
        rows = list(bench_report.rows(results))
        columns = bench_report.IN_TERMINAL
        self._figures(columns, [bench_report.cells(row, columns) for row in rows])
        remarks = [f"{row.workload}, {row.pool}: {row.remarks}" for row in rows if row.remarks]
        for remark in remarks:
            self._results.print(Text(remark), soft_wrap=True)
        if remarks:
            self._results.print()
        for sentence in sentences(results):
            self._results.print(Text(hidden(sentence), "bold"), soft_wrap=True)
        for warning in warnings(results):
            self.notice(f"Warning: {warning}.")

    def comparison(self, comparison: Comparison, offences: Iterable[str]) -> None:
        """Show what has changed, and what of it fails the comparison."""
        self._figures(bench_report.COMPARED, map(bench_report.compared, comparison.changes))
        for line in comparison.new_damage:
            self._results.print(Text(line), soft_wrap=True)
        for line in offences:
            self._results.print(Text(f"failed: {line}", "bold red"), soft_wrap=True)
        self._results.print(Text(comparison.summary(), "bold"), soft_wrap=True)
        for line in (*comparison.differences, *comparison.missing, *comparison.added):
            self.notice(f"Warning: {line}.")

    def _figures(self, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        # Between columns stands one blank of the box, and one of ours: ten columns have room in 80 characters.
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in headings:
            table.add_column(heading, no_wrap=heading != "pool", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self._results.print()
        self._results.print(table)
        self._results.print()

    def _prose(self, text: Text) -> None:
        self._results.print(text, width=min(self._results.width, _PROSE_WIDTH))
        self._results.print()

    def _table(self, first: str, second: str, *others: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column(first, no_wrap=True)
        table.add_column(second, overflow="fold")
        for heading in others:
            table.add_column(heading, overflow="fold")
        return table


class _Bar:
    """A progress bar; it disappears when the results come."""

    def __init__(self, console: Console, total: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=total)
        self._findings = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, name: str, _ending: str, *, is_finding: bool) -> None:
        self._findings += is_finding
        self._progress.update(self._task, advance=1, description=f"{name}; findings: {self._findings}")


class _Lines:
    """A line for each step, which a log can hold."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, name: str, ending: str, *, is_finding: bool) -> None:  # noqa: ARG002 - the ending says so
        self._done += 1
        self._console.print(Text(hidden(f"[{self._done}/{self._total}] {name}: {ending}")), soft_wrap=True)


ProgressDisplay = _Bar | _Lines


def _console(stream: TextIO) -> Console:
    """Return a console that adds no escape sequence unless somebody is there to see it.

    NO_COLOR turns off bold and dim as well: whoever sets it wants text, and rich would leave those in.
    """
    plain = bool(os.environ.get("NO_COLOR"))
    console = Console(file=stream, color_system=None if plain else "auto", highlight=False, markup=False, emoji=False)
    if not stream.isatty() or console.is_dumb_terminal:
        console.width = _UNLIMITED_WIDTH  # No table is cut or folded for a reader without columns.
    return console


def _is_interactive(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _word(verdict: Verdict | None) -> Text:
    outcome = verdict.outcome if verdict else None
    return Text(WORDS[outcome], _STYLES.get(outcome or "", "dim"))


def _broken(pool: str) -> str:
    """Return the pool's name in several lines: it heads a column of short words."""
    return pool.replace("+", "\n+").replace(":", ":\n")
