"""What the README and docs/hazards.md say is true."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pidpool.hazards import CATALOGUE
from tests import readme
from tests.conftest import address_for
from tests.servers.postgresql import run_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pidpool.hazards import Needs
    from tests.conftest import RunScript
    from tests.servers import Address

PAGE = readme.README.read_text()

SET_UP = "pip install '.[cli,embedded]' && pidpool audit"
TESTS = "pip install tox && tox"

# Rows that are quick, and whose verdict does not hang on timing.
CHEAP = ("gc", "explicit-close", "ping-recycle")
CHEAP_FOR_CLIENTS = ("client-close", "mid-pipeline")


@pytest.fixture(scope="module")
def shop(postgresql: Address, worker_id: str) -> Iterator[dict[str, str]]:
    """The environment in which ``dbname=shop`` is a database of this worker's own."""
    run_postgresql(
        postgresql, f"DROP DATABASE IF EXISTS shop_{worker_id} WITH (FORCE)", f"CREATE DATABASE shop_{worker_id}"
    )
    yield {
        "PGHOST": postgresql.host,
        "PGPORT": str(postgresql.port),
        "PGUSER": postgresql.user,
        "PGPASSWORD": postgresql.password,
        "PYTHONPATH": str(readme.ROOT),
    }
    run_postgresql(postgresql, f"DROP DATABASE shop_{worker_id} WITH (FORCE)")


def examples() -> list[tuple[str, str]]:
    """Return each block of Python, and the block of text that follows it, if any."""
    found = re.findall(r"^```python\n(.*?)^```$\n(?:\n^```text\n(.*?)^```$)?", PAGE, re.DOTALL | re.MULTILINE)
    return [(code, output) for code, output in found if code not in readme.section("hazard", PAGE)]


@pytest.mark.parametrize(("code", "output"), examples())
def test_a_python_block_prints_what_stands_below_it(
    code: str, output: str, shop: dict[str, str], worker_id: str, run_script: RunScript
) -> None:
    # Only the name differs: workers share the server.
    for name in ("postgresql+psycopg:///shop", "dbname=shop"):
        code = code.replace(name, f"{name}_{worker_id}")

    done = run_script(code, env=shop)

    assert done.stderr == ""
    assert done.returncode == 0
    assert with_stable_pids(done.stdout) == with_stable_pids(output)


def with_stable_pids(text: str) -> str:
    """Number the process ids in the order in which they appear."""
    seen: dict[str, str] = {}
    return re.sub(r"\bpid (\d+)", lambda found: f"pid #{seen.setdefault(found[1], str(len(seen)))}", text)


def test_the_hazard_is_the_example_and_its_output() -> None:
    assert readme.section("hazard", PAGE) == readme.hazard_demonstration(readme.run_example())


def test_the_documented_hazards_are_those_of_the_catalogue() -> None:
    assert readme.HAZARDS.read_text() == readme.hazards_page()


def test_each_matrix_has_the_rows_of_the_catalogue_and_pidpool_is_safe_in_all() -> None:
    tables = matrices()

    kinds: dict[str, Needs] = {
        **dict.fromkeys(readme.SERVERS, "server"),
        "sqlite3": "file",
        "duckdb": "duckdb",
        "redis-py": "client",
    }
    assert list(tables) == list(kinds)
    for driver, table in tables.items():
        assert [hazard for hazard, _ in table] == readme.rows_for(kinds[driver])
        assert {words[0] for _, words in table} == {"safe"}
    assert {hazard for table in tables.values() for hazard, _ in table} == set(CATALOGUE)


@pytest.mark.parametrize("driver", readme.SERVERS)
def test_a_fresh_run_agrees_with_the_matrix(driver: str, request: pytest.FixtureRequest) -> None:
    url = address_for(driver, request).url(driver)
    fresh = readme.rows(readme.audit(url, "--only", ",".join(CHEAP)))

    printed = dict(matrices()[driver])
    # Whether a pool loses rows or hangs is a matter of timing; whether it is safe is not.
    assert {hazard: is_safe(words) for hazard, words in fresh} == {hazard: is_safe(printed[hazard]) for hazard in CHEAP}


@pytest.mark.parametrize(("driver", "row"), readme.FILES.items())
def test_a_fresh_run_on_a_file_agrees_with_the_matrix(driver: str, row: str) -> None:
    ((_, words),) = readme.rows(readme.audit_file(row))
    ((_, printed),) = matrices()[driver]
    assert is_safe(words) == is_safe(printed)


def test_a_fresh_run_on_redis_agrees_with_the_matrix(redis_url: str) -> None:
    fresh = readme.rows(readme.audit(redis_url, "--only", ",".join(CHEAP_FOR_CLIENTS)))
    printed = dict(matrices()["redis-py"])
    assert {row: is_safe(words) for row, words in fresh} == {row: is_safe(printed[row]) for row in CHEAP_FOR_CLIENTS}


def matrices() -> dict[str, list[tuple[str, list[str]]]]:
    """Return the README's tables by driver."""
    tables = readme.section("matrix", PAGE).split("### With ")[1:]
    return {table.split(maxsplit=1)[0]: list(readme.rows(table)) for table in tables}


def is_safe(words: list[str]) -> list[bool]:
    return [word == "safe" for word in words]


@pytest.mark.parametrize("command", [SET_UP, TESTS])
def test_a_command_that_does_all_the_set_up_stands_in_a_block_of_its_own(command: str) -> None:
    assert f"{command}\n" in readme.code_blocks("sh", PAGE)


def test_continuous_integration_runs_the_command_that_the_readme_gives() -> None:
    script = (readme.ROOT / ".ci" / "run").read_text()

    # On lines of their own: in `a && b` the shell would go on after a failure of `a`, in spite of `set -e`.
    assert "\n".join(["", *TESTS.split(" && "), ""]) in script.replace(" --quiet", "")


@pytest.mark.parametrize("page", sorted([readme.README, *readme.ROOT.glob("docs/**/*.md")]), ids=lambda page: page.name)
def test_links_between_the_documents_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []
