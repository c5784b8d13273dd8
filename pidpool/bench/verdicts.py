"""What a run shows, in sentences; and what speaks against believing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pidpool.bench.figures import FEWEST_ROUNDS, SIGNIFICANT, Spread, chance_of_ratios
from pidpool.bench.results import METRICS, clean, damage
from pidpool.bench.words import numbered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pidpool.bench.results import Results
    from pidpool.bench.rounds import Round

_WIDE = 0.3
"""Quartiles that are further apart than this share of the median make a figure worth little."""

_SINGULAR = {
    "wrong rows": "wrong row",
    "children in a session of their parent's": "child in a session of its parent's",
    "errors": "error",
    "children that hung": "child that hung",
    "rounds that hung": "round that hung",
    "rounds that failed": "round that failed",
}


def sentences(results: Results) -> list[str]:
    """Return a sentence for each workload and each pool that the first one is compared with."""
    first, *others = results.settings.pools
    said = [
        f"{workload}: {_sentence(results, workload, first, other)}"
        for workload in results.settings.workloads
        for other in others
    ]
    if not others:
        said = [
            f"{workload}: {_alone(results.rounds(workload, first), first)}" for workload in results.settings.workloads
        ]
    if results.interrupted:
        total = len(results.settings.workloads) * len(results.settings.pools) * results.settings.rounds
        said.append(f"Interrupted: {len(results.played)} of {total} rounds came to an end.")
    return said


def warnings(results: Results) -> list[str]:
    """Return what makes the figures less certain than they look."""
    return list(_warnings(results))


def counted(counts: dict[str, int]) -> str:
    """Return what went wrong as words: "3 wrong rows, 1 error"."""
    return ", ".join(f"{count} {_SINGULAR[what] if count == 1 else what}" for what, count in counts.items())


def _sentence(results: Results, workload: str, pool: str, base: str) -> str:
    for name in (pool, base):
        if reason := _why_not(results.rounds(workload, name)):
            return f"{name} {reason}."
    ratios = results.ratios(workload, pool, base)
    if not ratios:
        return f"{pool} and {base} have no round in common."
    spread = Spread.of(ratios)
    between = f"between {spread.low:.2f} and {spread.high:.2f} in half of the rounds"
    shares = _fairness(results.rounds(workload, pool)), _fairness(results.rounds(workload, base))
    if None not in shares:
        between += f", fairness {shares[0]:.2f} against {shares[1]:.2f}"
    if len(ratios) < FEWEST_ROUNDS:
        too_few = f"{numbered(len(ratios), 'round is', 'rounds are')} too few to tell that from chance"
        return f"{pool} took {spread.median:.2f} of {base}'s time, {between}; {too_few} ({FEWEST_ROUNDS} at least)."
    if chance_of_ratios(ratios) >= SIGNIFICANT:
        return f"the difference between {pool} and {base} is not significant ({spread.median:.2f}, {between})."
    return f"{pool} took {spread.median:.2f} of {base}'s time, {between}."


def _fairness(rounds: list[Round]) -> float | None:
    shares = [played.fairness for played in rounds if played.fairness is not None]
    return Spread.of(shares).median if shares else None


def _why_not(rounds: list[Round]) -> str:
    """Return why the times of a pool do not count; nothing if they do."""
    if not rounds:
        return "had no turn"
    if harm := damage(rounds):
        return f"did it wrong ({counted(harm)}), so its time does not count"
    if not clean(rounds):
        return f"was skipped: {rounds[0].detail or 'it finished nothing'}"
    return ""


def _alone(rounds: list[Round], pool: str) -> str:
    return f"{pool} {_why_not(rounds) or 'was compared with nothing: name a second pool'}."


def _warnings(results: Results) -> Iterator[str]:
    settings = results.settings
    for when, load in (("before", settings.load_average), ("after", results.load_average_after)):
        # The bench is itself one process, with a server beside it.
        limit = settings.cores if when == "before" else settings.cores + 1
        if load is not None and load > limit:
            yield f"load {load} on {numbered(settings.cores, 'core')} {when} the run: the machine has other work to do"
    for workload, pool, rounds in results.cells():
        times = [METRICS["time"](played) for played in clean(rounds)]
        width = Spread.of(times).width if times else 0.0
        if width > _WIDE:
            yield (
                f"{workload}, {pool}: the quartiles are {width:.0%} of the median apart: "
                "more rounds, a longer duration or a quieter machine would help"
            )
