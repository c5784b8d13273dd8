"""What is generated in the README and in docs/, and the command that writes it.

    python -m tests.readme

starts servers, runs the example and the whole audit (minutes), and rewrites what stands between the README's markers,
as well as docs/hazards.md. `tests/test_readme.py` fails when one of them is no longer true.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pidpool.hazards import CATALOGUE
from tests.servers import MariaDB, PostgreSQL, Redis
from tests.servers.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pidpool.hazards import Hazard, Needs

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HAZARDS = ROOT / "docs" / "hazards.md"
EXAMPLE = ROOT / "examples" / "hazard.py"

#: How many columns each matrix has: those of `pidpool audit` without --pool.
POOLS = 3
#: The README has a matrix for each: the driver that is most forgiving, and the one that is least.
SERVERS = {"psycopg": PostgreSQL, "mysqlclient": MariaDB}
#: And one for each driver whose databases are files: their row.
FILES = {"sqlite3": "sqlite", "duckdb": "duckdb"}
PATIENCE = ("--timeout", "120")  # seconds: a machine that has other work must not make a pool look bad


def section(name: str, page: str) -> str:
    """Return what stands between the markers of that name."""
    return page[slice(*_span(name, page))]


def with_section(name: str, content: str, page: str) -> str:
    start, end = _span(name, page)
    return page[:start] + content + page[end:]


def _span(name: str, page: str) -> tuple[int, int]:
    found = re.search(f"<!-- {name}:begin[^>]*-->\\n(.*?)<!-- {name}:end -->", page, re.DOTALL)
    if found is None:
        raise LookupError(f"no markers {name}:begin and {name}:end")
    return found.span(1)


def code_blocks(language: str, page: str) -> list[str]:
    """Return the fenced code blocks in a language."""
    return re.findall(f"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def rows(markdown: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each row of a table of the audit's: the hazard, and one word for each pool."""
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0].startswith("`"):
            yield cells[0].strip("`"), [cell.strip("*") for cell in cells[-POOLS:]]


def hazard_demonstration(output: str) -> str:
    """Return the heart of the example, and what it printed."""
    function = re.search(r"^def order_a_book.*?(?=\n\n\n)", EXAMPLE.read_text(), re.DOTALL | re.MULTILINE)
    assert function is not None
    return f"```python\n{function[0]}\n```\n\n```text\n$ python examples/hazard.py\n{output}```\n"


def run_example() -> str:
    """Run the example on a PostgreSQL of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout


def rows_for(kind: Needs) -> list[str]:
    """Return the hazards that can be provoked on a kind of target."""
    return [hazard.name for hazard in CATALOGUE.values() if hazard.needs == kind]


def audit_file(row: str = "sqlite") -> str:
    """Audit a file of SQLite's or DuckDB's, which have a row each, and return what `audit` does."""
    with tempfile.TemporaryDirectory() as folder:
        return audit(f"{row}:///{folder}/file.db", *PATIENCE)


def audit(url: str, *options: str) -> str:
    """Run the audit, and return what it writes with --markdown."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "matrix.md"
        command = [sys.executable, "-m", "pidpool", "audit", "--markdown", str(file), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIDPOOL_AUDIT_URL": url}
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        if not file.exists():
            raise RuntimeError(done.stdout)
        return file.read_text()


def matrix(driver: str, report: str) -> str:
    """Return the README's form of an audit's report: with a heading, and the losses folded away."""
    table, has_losses, losses = report.partition("What was lost:\n")
    if has_losses:
        table += f"<details>\n<summary>What was lost</summary>\n{losses}\n</details>\n"
    return f"\n### With {driver}\n\n{table}"


def hazards_page() -> str:
    """Return docs/hazards.md."""
    introduction = (
        "# The hazards\n\n"
        "<!-- Written by `python -m tests.readme` from pidpool/hazards; change it there. -->\n\n"
        "What a forked child can do to its parent's connections, and what to do about it. `pidpool audit` runs all "
        "of these against a server of yours; `pidpool audit --explain HAZARD` tells the same stories, with the code "
        "that provokes them.\n"
    )
    return "\n".join([introduction, *map(_story, CATALOGUE.values())])


def _story(hazard: Hazard) -> str:
    return (
        f"## {hazard.name}\n\nThe child {hazard.title}.\n\n{hazard.story}\n\n"
        f"**The parent must** {hazard.promise}.\n\n**What to do:** {hazard.advice}\n"
    )


def main() -> None:
    """Rewrite everything that is generated."""
    HAZARDS.write_text(hazards_page())
    page = with_section("hazard", hazard_demonstration(run_example()), README.read_text())
    keeper = Keeper()
    try:
        tables = [
            matrix(driver, audit(product(keeper.run_folder).start().url(driver), *PATIENCE))
            for driver, product in SERVERS.items()
        ]
        clients = matrix("redis-py", audit(Redis(keeper.run_folder).start().url("redis"), *PATIENCE))
    finally:
        keeper.finish()
    tables += [*(matrix(driver, audit_file(row)) for driver, row in FILES.items()), clients]
    README.write_text(with_section("matrix", "".join(tables), page))


if __name__ == "__main__":
    main()
