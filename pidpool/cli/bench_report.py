"""The table of a bench, and the Markdown that is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pidpool.bench import METRICS, circumstances
from pidpool.bench.chart import number, scale
from pidpool.bench.figures import Spread
from pidpool.bench.results import clean, damage
from pidpool.bench.verdicts import counted, sentences, warnings
from pidpool.bench.words import numbered
from pidpool.cli.redaction import hidden
from pidpool.cli.report import markdown_list, markdown_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pidpool.bench import Change, Results, Round, Settings

COMPARED = ("workload", "pool", "metric", "before", "after", "change", "")


class Row(NamedTuple):
    """What one pool did in one workload, in words; the names of the fields head the columns."""

    workload: str
    pool: str
    time: str
    spread: str
    """Half of the range in which half of the rounds lie."""
    half_of_the_rounds: str
    """That range."""
    p50: str
    p99: str
    connects: str
    wrong: str
    errors: str
    remarks: str


IN_TERMINAL = ("workload", "pool", "time", "spread", "p50", "p99", "connects", "wrong", "errors")
"""The columns that have room in 80 characters."""
IN_MARKDOWN = tuple(name for name in Row._fields if name != "spread")


def rows(results: Results) -> Iterator[Row]:
    """Yield a row for each workload and pool; one without times has its reason in the remarks."""
    for workload, pool, rounds in results.cells():
        yield _row(workload, pool, rounds)


def cells(row: Row, columns: tuple[str, ...]) -> list[str]:
    """Return those columns of a row."""
    return [getattr(row, column) for column in columns]


def duration(seconds: float) -> str:
    """Return `seconds` in a unit that suits it: "1.71 µs"."""
    factor, unit = scale(seconds)
    return f"{number(seconds * factor)} {unit}"


def compared(change: Change) -> tuple[str, ...]:
    """Return a row under `COMPARED`."""
    verdict = "" if change.is_significant else "not significant"
    figures = (duration(change.before), duration(change.after), f"{change.ratio - 1:+.1%}")
    return (change.workload, change.pool, change.metric, *figures, verdict)


def facts(settings: Settings) -> dict[str, str]:
    """Return the settings as lines, each under a name."""
    versions = settings.versions
    database = {
        "target": settings.target,
        "server": versions.get("server", ""),
        "driver": f"{settings.driver} {versions.get('driver', '')}".strip(),
    }
    return {
        **{name: value for name, value in database.items() if value},
        "pools": ", ".join(settings.pools),
        "workloads": ", ".join(settings.workloads),
        "rounds": f"{settings.rounds} of {settings.load.duration:g} s for each pool, in turn, each in a fresh process",
        **_load(settings),
        "versions": circumstances.software(versions),
        "machine": circumstances.machine(settings.cores, settings.load_average),
    }


def _load(settings: Settings) -> dict[str, str]:
    """Return a line on each workload that threads, children or inherited connections take part in."""
    load = settings.load
    inherited = numbered(load.inherited, "inherited connection")
    held = "given back at once" if load.hold is None else f"held {load.hold * 1e3:g} ms"
    lines = {
        "contended": f"{numbered(load.threads, 'thread')} over {numbered(load.connections, 'connection')}, {held}",
        "fork": inherited,
        "storm": f"{numbered(load.processes, 'child', 'children')} at once, {inherited}",
    }
    return {name: line for name, line in lines.items() if name in settings.workloads}


def as_markdown(results: Results) -> str:
    """Return table, sentences and settings."""
    headings = [name.replace("_", " ") for name in IN_MARKDOWN]
    lines = [markdown_row(headings), markdown_row(["---"] * len(headings))]
    lines += [markdown_row(cells(row, IN_MARKDOWN)) for row in rows(results)]
    lines += ["", *markdown_list(sentences(results))]
    if noise := warnings(results):
        lines += ["", "Warnings:", "", *markdown_list(noise)]
    lines += [
        "",
        "Settings:",
        "",
        *markdown_list([f"{name}: {value}" for name, value in facts(results.settings).items()]),
    ]
    return "\n".join(lines) + "\n"


def _row(workload: str, pool: str, rounds: list[Round]) -> Row:
    connects = str(sum(played.connects for played in rounds))
    wrong = str(sum(played.wrong + played.shared for played in rounds))
    errors = str(sum(_errors(played) for played in rounds))
    measured = [played for played in rounds if played.seconds is not None]
    if not measured:
        reasons = [played.detail for played in rounds if played.outcome == "skipped"][:1]
        remarks = counted(damage(rounds)) or "".join(reasons) or "not measured"
        return Row(workload, pool, "-", "-", "-", "-", "-", connects, wrong, errors, hidden(remarks))
    # What went wrong is shown with its times, so that one sees what they were bought with.
    counts = clean(measured) or measured
    time = Spread.of([METRICS["time"](played) for played in counts])
    p50, p99 = (duration(Spread.of([METRICS[name](played) for played in counts]).median) for name in ("p50", "p99"))
    half = f"{duration(time.low)} to {duration(time.high)}"
    remarks = hidden(", ".join(_remarks(rounds)))
    spread = f"±{time.width / 2:.0%}"
    return Row(workload, pool, duration(time.median), spread, half, p50, p99, connects, wrong, errors, remarks)


def _errors(played: Round) -> int:
    """Return what did not end: operations, children, or the whole round."""
    return played.errors + played.hung + played.timeouts + (played.outcome in {"hang", "error"})


def _remarks(rounds: list[Round]) -> Iterator[str]:
    if harm := damage(rounds):
        yield counted(harm)
        yield from [played.detail for played in rounds if played.detail][:1]
    if fairness := [played.fairness for played in rounds if played.fairness is not None]:
        yield f"fairness {Spread.of(fairness).median:.2f}"
        yield f"longest wait {duration(max(played.percentiles[100] for played in rounds if played.percentiles))}"
    if timeouts := sum(played.timeouts for played in rounds):
        yield numbered(timeouts, "timeout")
