"""The hazards by name, and the decorator with which a scenario enters."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .errors import Skip, UnknownHazard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .family import Family

#: It takes a `Stage`, or a `ClientStage` if it needs a "client".
Scenario = Callable[[Any], None]
Needs = Literal["server", "file", "duckdb", "client"]
_ONLY_FOR: dict[Needs, str] = {
    "server": "a server",
    "file": "a SQLite file",
    "duckdb": "a DuckDB file",
    "client": "a Redis server, by a URL such as redis://host:6379/0",
}


@dataclass(frozen=True)
class Hazard:
    """One thing that a child does, and what its parent must not lose by it.

    Attributes:
        name: its id.
        title: completes "the child ...".
        promise: completes "the parent must ...".
        story: how it comes about in real programs, in plain words.
        advice: what to do about it.
        scenario: the function that provokes it.
        needs: "server", "file" (SQLite's), "duckdb" or "client" (of a Redis server): what kind of target it can be
            provoked on.
        controls: driver -> name of a subject that is known to fail here ("*": every other driver). A row that
            nobody fails would prove nothing.
        makes_loops: its scenario runs event loops of its own, also where the driver is not asyncio's.
    """

    name: str
    title: str
    promise: str
    story: str
    advice: str
    scenario: Scenario = field(repr=False)
    needs: Needs
    controls: Mapping[str, str]
    makes_loops: bool = False

    @property
    def source(self) -> str:
        """The code that provokes it, without its docstring (which is the story)."""
        lines = textwrap.dedent(inspect.getsource(self.scenario)).splitlines()
        function = ast.parse("\n".join(lines)).body[0]
        if not isinstance(function, ast.FunctionDef):  # pragma: no cover - the decorator takes nothing else
            return "\n".join(lines)
        docstring, *rest = function.body
        head = lines[function.lineno - 1 : docstring.lineno - 1]
        # From the docstring's last line, not from the next statement: comments in between belong to the code.
        body = lines[(docstring.end_lineno or docstring.lineno) : rest[-1].end_lineno]
        return "\n".join([*head, *body]) + "\n"

    def play(self, stage: Family) -> None:
        """Provoke it.

        Raises:
            Skip: it cannot be provoked on this kind of target.
        """
        if self.needs != stage.target.kind:
            there = stage.target.kind
            if there == "client":
                raise Skip(
                    "only for SQL connections, and a Redis client has none; see the rows client-... and mid-pipeline"
                )
            if there == "server" or self.needs == "client":
                raise Skip(f"only for {_ONLY_FOR[self.needs]}")
            raise Skip(f"{_ONLY_FOR[there]} has no sessions; see the row {stage.target.backend}")
        self.scenario(stage)

    def control(self, driver: str) -> str:
        """Return the name of a subject that fails this hazard with `driver`."""
        return self.controls.get(driver) or self.controls["*"]


CATALOGUE: dict[str, Hazard] = {}
"""Every hazard, in the order in which people should read them."""


def enters(  # noqa: PLR0913 - one for each thing that is said of a hazard
    name: str,
    *,
    title: str,
    promise: str,
    advice: str,
    needs: Needs = "server",
    controls: Mapping[str, str] | None = None,
    makes_loops: bool = False,
) -> Callable[[Scenario], Scenario]:
    """Enter the decorated scenario into the catalogue; its docstring is the story.

    Args:
        name: see `Hazard` for this and the rest.
        title: completes "the child ...".
        promise: completes "the parent must ...".
        advice: what to do about it.
        needs: "server", "file", "duckdb" or "client".
        controls: by default QueuePool fails with every driver, and a client that everybody shares.
        makes_loops: as there.

    """

    def enter(scenario: Scenario) -> Scenario:
        story = " ".join((inspect.getdoc(scenario) or "").split())
        failing = controls or {"*": "redis-py" if needs == "client" else "queuepool"}
        CATALOGUE[name] = Hazard(name, title, promise, story, advice, scenario, needs, failing, makes_loops)
        return scenario

    return enter


def hazard(name: str) -> Hazard:
    """Return the hazard called `name`.

    Raises:
        UnknownHazard: there is none; the message lists the known ones.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    raise UnknownHazard(f"unknown hazard {name!r}; known are {', '.join(CATALOGUE)}")
