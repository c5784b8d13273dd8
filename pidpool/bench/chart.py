"""A bar chart as SVG, written by hand: readable in light and dark, and by people who see no colours.

Panels stand below one another, each with an axis of its own; a bar is a median, the line on its end the quartiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from pidpool.bench.figures import Spread
from pidpool.bench.results import METRICS, clean, damage
from pidpool.bench.verdicts import counted
from pidpool.bench.words import numbered
from pidpool.bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pidpool.bench.results import Results

_WIDTH = 860
_MARGIN = 24
_NAMES = 200  # to the right end of the names
_BARS = 460  # how long the longest bar may be; its value stands to the right of it
_ROW = 26
_BAR = 16
_LETTER = 6.4  # how wide a letter of 12 pixels is at most, on average

_STYLE = """
  .back { fill: #ffffff }
  text { font: 12px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 17px; font-weight: 600 }
  .panel { font-size: 13px; font-weight: 600 }
  .faint { fill: #59636e; font-size: 11px }
  .harm { fill: #b3261e; font-weight: 600 }
  .name { text-anchor: end }
  .tick { text-anchor: middle }
  .ours { fill: #1668b8 }
  .other { fill: #9aa4af }
  .grid { stroke: #e3e7eb; stroke-width: 1 }
  .axis { stroke: #8a939c; stroke-width: 1 }
  .spread { stroke: #1f2328; stroke-width: 1.5; fill: none }
  .limit { stroke: #b3261e; stroke-width: 1.5; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 }
    text { fill: #e6edf3 }
    .faint { fill: #9198a1 }
    .harm { fill: #ff8a80 }
    .ours { fill: #4c9be8 }
    .other { fill: #5d6773 }
    .grid { stroke: #262c34 }
    .axis { stroke: #6e7681 }
    .spread { stroke: #e6edf3 }
    .limit { stroke: #ff8a80 }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: whose it is.
        spread: its length and the line on its end; None when nothing was measured, or it does not count.
        note: what stands to its right, after the value; the reason where there is no bar.
        tone: "ours", "other", or "harm" for something that went wrong.
    """

    name: str
    spread: Spread | None
    note: str = ""
    tone: Literal["ours", "other", "harm"] = "other"


@dataclass(frozen=True)
class Panel:
    """Bars that share an axis.

    Attributes:
        title: what was done.
        unit: of the axis, such as "µs a checkout".
        bars: from top to bottom.
        limit: a value to mark with a line across the bars, such as a target.
    """

    title: str
    unit: str
    bars: tuple[Bar, ...]
    limit: float | None = None


def of_results(results: Results) -> str:
    """Return the chart of a run: a panel for each workload, a bar for each pool."""
    settings = results.settings
    panels = [_panel(results, workload) for workload in settings.workloads]
    versions = settings.versions
    parts = [
        f"pidpool {versions['pidpool']}",
        f"SQLAlchemy {versions['sqlalchemy']}",
        *([f"{settings.driver} {versions['driver']}", versions["server"]] if settings.driver else []),
        f"Python {versions['python']}",
        numbered(settings.cores, "core"),
        f"{numbered(settings.rounds, 'round')} of {settings.load.duration:g} s",
    ]
    return draw("Time of an operation by pool: less is better", ", ".join(parts), panels)


def _panel(results: Results, name: str) -> Panel:
    rounds = {pool: results.rounds(name, pool) for pool in results.settings.pools}
    times = {pool: [METRICS["time"](played) for played in clean(played)] for pool, played in rounds.items()}
    factor, unit = scale(max((max(values) for values in times.values() if values), default=1.0))
    bars = []
    for place, (pool, played) in enumerate(rounds.items()):
        if harm := damage(played):
            bars.append(Bar(pool, None, counted(harm), "harm"))
        elif not times[pool]:
            bars.append(Bar(pool, None, (played[0].detail if played else "") or "not measured"))
        else:
            spread = Spread.of([value * factor for value in times[pool]])
            shares = [each.fairness for each in clean(played) if each.fairness is not None]
            note = f"(fairness {Spread.of(shares).median:.2f})" if shares else ""
            bars.append(Bar(pool, spread, note, "other" if place else "ours"))
    workload = WORKLOADS[name]
    return Panel(f"{name}: {workload.title}", f"{unit} a {workload.operation}", tuple(bars))


def scale(seconds: float) -> tuple[float, str]:
    """Return the factor and the unit that make `seconds` a number one likes to read."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return factor, unit
    return 1e6, "µs"


def number(value: float) -> str:
    """Return `value` with three digits that count."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}"


def draw(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """Return an SVG document.

    Args:
        title: what the chart shows.
        subtitle: the settings: a figure without them means little.
        panels: from top to bottom.
    """
    body: list[str] = []
    lines = _wrapped(subtitle, int((_WIDTH - 2 * _MARGIN) / (_LETTER * 0.95)))
    top: float = _MARGIN + 14
    body.append(_text(_MARGIN, top, title, "title"))
    for line in lines:
        top += 17
        body.append(_text(_MARGIN, top, line, "faint"))
    top += 20
    for panel in panels:
        top = _draw_panel(panel, top, body)
    height = top + 4
    body.append(
        _text(_MARGIN, height, "Bars are medians of rounds; the line on a bar spans half of the rounds.", "faint")
    )
    height += _MARGIN
    size = f'viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" height="{height:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(_described(panels))}</desc>",
            f"<style>{_STYLE}</style>",
            f'<rect class="back" width="{_WIDTH}" height="{height:g}" rx="6"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def _draw_panel(panel: Panel, top: float, body: list[str]) -> float:
    """Append the elements of `panel` to `body` and return where the next one may begin."""
    top += 18
    body.append(_text(_MARGIN, top, panel.title, "panel"))
    ends = [bar.spread.high for bar in panel.bars if bar.spread]
    ticks = _ticks(max([*ends, panel.limit or 0.0, 1e-12]))
    start = top + 10
    end = start + _ROW * len(panel.bars)

    def x(value: float) -> float:
        return round(_NAMES + 10 + value / ticks[-1] * _BARS, 1)

    if ends:
        for tick in ticks:
            kind = "grid" if tick else "axis"
            body.append(f'<line class="{kind}" x1="{x(tick)}" y1="{start:g}" x2="{x(tick)}" y2="{end + 4:g}"/>')
            body.append(_text(x(tick), end + 17, f"{tick:g}", "faint tick"))
        body.append(_text(x(ticks[-1]) + 24, end + 17, panel.unit, "faint"))
    for row, bar in enumerate(panel.bars):
        middle = start + _ROW * row + _ROW / 2
        body.append(_text(_NAMES, middle + 4, _shortened(bar.name), "name"))
        body += _draw_bar(bar, middle, x)
    if panel.limit is not None:
        at = x(panel.limit)
        body.append(f'<line class="limit" x1="{at}" y1="{start - 2:g}" x2="{at}" y2="{end + 4:g}"/>')
    return end + (34 if ends else 16)


def _draw_bar(bar: Bar, middle: float, x: Callable[[float], float]) -> list[str]:
    zero = x(0)
    if bar.spread is None:
        return [_text(zero + 6, middle + 4, bar.note, "harm" if bar.tone == "harm" else "faint")]
    spread = bar.spread
    low, high = x(spread.low), x(spread.high)
    length = max(x(spread.median) - zero, 1)
    value = f"{number(spread.median)} {bar.note}".strip()
    return [
        f'<rect class="{bar.tone}" x="{zero}" y="{middle - _BAR / 2:g}" width="{length:g}" height="{_BAR}" rx="2"/>',
        f'<path class="spread" d="M{low} {middle:g}H{high}M{low} {middle - 4:g}v8M{high} {middle - 4:g}v8"/>',
        _text(max(high, zero + length) + 8, middle + 4, value, "value"),
    ]


def _ticks(highest: float) -> list[float]:
    """Return four to seven round numbers from 0 to at least `highest`."""
    magnitude = 10 ** math.floor(math.log10(highest))
    step = next(magnitude * part for part in (0.2, 0.5, 1, 2) if magnitude * part * 5.5 >= highest)
    count = math.ceil(highest / step - 1e-9)
    return [round(step * place, 12) for place in range(count + 1)]


def _text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(content)}</text>'


def _shortened(name: str) -> str:
    """Return as much of `name` as has room, its end: the end tells classes of one module apart."""
    room = int((_NAMES - _MARGIN) / _LETTER)
    return name if len(name) <= room else f"…{name[-room + 1 :]}"


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for part in text.split(", "):
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(longer) > width:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def _described(panels: Iterable[Panel]) -> str:
    """Return the figures in words, for readers that do not see."""
    return " ".join(
        f"{panel.title}, in {panel.unit}: "
        + "; ".join(f"{bar.name} {number(bar.spread.median) if bar.spread else bar.note}" for bar in panel.bars)
        + "."
        for panel in panels
    )
