"""Lower rooms never import higher ones, and what else keeps the rooms apart.

Each rule is a function from a module to its offences, so that it can be shown to find one.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import RunScript

PACKAGE = Path(__file__).parents[1] / "pidpool"

# From the ground up. Imports point to the left.
ROOMS = (
    "errors",
    "_fork",
    "_transports",
    "drivers",
    "_discard",
    "_files",
    "_sqlite",
    "_duckdb",
    "_opening",
    "_loops",
    "per_process",
    "pool",
    "hazards",
    "bench",
    "cli",
)
# Below the pool there is no SQLAlchemy, and a driver is described without being imported.
WITHOUT_THIRD_PARTY = (*ROOMS[: ROOMS.index("pool")], "pool._queue")
PRINTS = "cli.render"


class Import(NamedTuple):
    """One imported name, as in `from module import name`; name is empty in `import module`."""

    module: str
    name: str
    line: int
    only_for_types: bool


@dataclass(frozen=True)
class Module:
    """A module of the package; `name` leaves out the leading `pidpool.`, and is empty for its __init__."""

    name: str
    source: str
    is_package: bool = False

    @property
    def room(self) -> str:
        return self.name.split(".")[0]

    def imports(self) -> Iterator[Import]:
        tree = ast.parse(self.source)
        guarded = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
            for statement in block.body
            for node in ast.walk(statement)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, "", node.lineno, id(node) in guarded)
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                for alias in node.names:
                    yield Import(module, alias.name, node.lineno, id(node) in guarded)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        path = ["pidpool", *filter(None, self.name.split("."))]
        base = path[: len(path) - node.level + self.is_package]
        return ".".join([*base, *filter(None, [node.module])])


def modules() -> Iterator[Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        yield Module(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package)


def room_of(imported: Import) -> str | None:
    """Return the room that an import reaches into; None: it leaves the package, or stays at its door."""
    path = [*imported.module.split("."), imported.name]
    if path[0] != "pidpool" or path[1] not in ROOMS:
        return None
    return path[1]


def imports_of_higher_rooms(module: Module) -> list[str]:
    """Imports count wherever they stand: in functions, and for type checkers alone."""
    if module.name in ("", "__main__"):
        return []  # the front door, which loads every room's names on first use
    return [
        f"{module.name}:{imported.line} imports from {room}, which is higher"
        for imported in module.imports()
        if (room := room_of(imported)) and ROOMS.index(room) > ROOMS.index(module.room)
    ]


def imports_of_third_parties(module: Module) -> list[str]:
    """Names for type checkers alone are free: they load nothing."""
    guarded = any(f"{module.name}.".startswith(f"{room}.") for room in ("", *WITHOUT_THIRD_PARTY))
    return [
        f"{module.name}:{imported.line} imports {imported.module}"
        for imported in module.imports()
        if guarded
        and not imported.only_for_types
        and imported.module.split(".")[0] not in {"pidpool", *sys.stdlib_module_names}
    ]


def uses_of_private_sqlalchemy_names(module: Module) -> list[str]:
    """Private names change without notice: one room watches them."""
    return [
        f"{module.name}:{imported.line} imports {imported.module} {imported.name}"
        for imported in module.imports()
        if module.room != "pool"
        and imported.module.split(".")[0] == "sqlalchemy"
        and any(
            part.startswith("_") and not part.startswith("__") for part in (*imported.module.split("."), imported.name)
        )
    ]


def prints(module: Module) -> list[str]:
    """A library speaks through logging, and the command line through its renderer."""
    return [
        f"{module.name}:{node.lineno} prints"
        for node in ast.walk(ast.parse(module.source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "pprint")
        and module.name != PRINTS
    ]


RULES = (imports_of_higher_rooms, imports_of_third_parties, uses_of_private_sqlalchemy_names, prints)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_a_rule(rule: Callable[[Module], list[str]]) -> None:
    assert [offence for module in modules() for offence in rule(module)] == []


def test_every_module_stands_in_a_known_room() -> None:
    assert {module.room for module in modules()} - {"", "__main__"} == set(ROOMS)


@pytest.mark.parametrize(
    ("rule", "module"),
    [
        (imports_of_higher_rooms, Module("errors", "from pidpool._fork import generation")),
        (imports_of_higher_rooms, Module("_fork", "from pidpool import drivers")),
        (imports_of_higher_rooms, Module("_discard", "import pidpool.pool._queue")),
        (imports_of_higher_rooms, Module("_discard", "def late():\n    from pidpool.pool import PidPool")),
        (imports_of_higher_rooms, Module("drivers.psycopg", "from .. import _discard")),
        (imports_of_higher_rooms, Module("drivers", "from .._discard import discard", is_package=True)),
        (imports_of_higher_rooms, Module("pool", "if TYPE_CHECKING:\n    from pidpool.hazards import Stage")),
        (imports_of_higher_rooms, Module("hazards.runner", "from pidpool import cli")),
        (imports_of_third_parties, Module("_fork", "import sqlalchemy")),
        (imports_of_third_parties, Module("", "from sqlalchemy.pool import QueuePool", is_package=True)),
        (imports_of_third_parties, Module("drivers.psycopg", "def late():\n    import psycopg")),
        (imports_of_third_parties, Module("pool._queue", "import sqlalchemy.exc")),
        (uses_of_private_sqlalchemy_names, Module("hazards.x", "from sqlalchemy.pool.base import _Fairy")),
        (uses_of_private_sqlalchemy_names, Module("cli.x", "import sqlalchemy.engine._py_row")),
        (prints, Module("hazards.runner", "def run():\n    print('safe')")),
    ],
    ids=lambda value: getattr(value, "__name__", None) or f"{value.name}: {value.source.splitlines()[-1]}",
)
def test_each_rule_finds_an_offence(rule: Callable[[Module], list[str]], module: Module) -> None:
    assert len(rule(module)) == 1


@pytest.mark.parametrize(
    ("rule", "module"),
    [
        (imports_of_higher_rooms, Module("pool._record", "from pidpool import _fork, errors\nimport os")),
        (imports_of_higher_rooms, Module("cli.audit", "from pidpool import __version__, hazards")),
        (imports_of_third_parties, Module("_discard", "if TYPE_CHECKING:\n    import sqlalchemy")),
        (imports_of_third_parties, Module("_discard", "import os\nfrom pidpool import drivers")),
        (uses_of_private_sqlalchemy_names, Module("pool.x", "from sqlalchemy.pool.base import _Fairy")),
        (prints, Module("cli.render", "print('safe')")),
    ],
    ids=lambda value: getattr(value, "__name__", None) or value.name,
)
def test_each_rule_lets_good_code_pass(rule: Callable[[Module], list[str]], module: Module) -> None:
    assert rule(module) == []


def test_importing_pidpool_loads_no_third_party_package(run_script: RunScript) -> None:
    result = run_script("""
        import sys
        before = set(sys.modules)
        import pidpool
        loaded = {name.split(".")[0] for name in set(sys.modules) - before}
        print(sorted(loaded - {"pidpool", *sys.stdlib_module_names}))
    """)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_every_public_name_loads(run_script: RunScript) -> None:
    result = run_script("""
        import pidpool
        assert {name for name in pidpool.__all__ if not hasattr(pidpool, name)} == set()
        assert set(pidpool.__all__) <= set(dir(pidpool))
    """)
    assert (result.returncode, result.stderr) == (0, "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    import pidpool  # noqa: PLC0415 - the package itself is under test

    with pytest.raises(AttributeError, match="no attribute 'PidPol'"):
        pidpool.PidPol  # noqa: B018 - looking it up is the test
