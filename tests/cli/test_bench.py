"""`pidpool bench` and `pidpool bench compare`, as a user calls them."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from pidpool.bench import Results
from tests.cli.conftest import COMMAND, call

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pidpool
    from tests.servers import Address

SECRET = "s3cr3t-w0rd"
QUICK = ("--duration", "0.05", "--rounds", "2", "--processes", "2", "--threads", "4")


@dataclass(frozen=True)
class Run:
    """A safe pool beside an unsafe one with all three files: what most tests look at."""

    result: subprocess.CompletedProcess[str]
    folder: Path
    password: str


@pytest.fixture(scope="module")
def run(postgresql: Address, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("bench")
    workloads = ("--workload", "query,fork", "--workload", "checkout")
    files = ("--json", "bench.json", "--markdown", "bench.md", "--chart", "bench.svg")
    result = call(
        "bench", postgresql.url("psycopg"), *workloads, *QUICK, *files, folder=folder, environment=environment
    )
    return Run(result, folder, postgresql.password)


def test_settings_come_first_and_then_figures_and_sentences(run: Run) -> None:
    assert run.result.returncode == 0, run.result
    output = run.result.stdout
    order = [output.index(words) for words in ("target", "2 of 0.05 s", "spread", "query: pidpool took")]
    assert order == sorted(order)
    settings, figures = output.split("workload  pool", 1)
    assert "\nfork " in settings, "its load"
    assert "\nstorm " not in settings, "it was not asked for"
    assert "wrong  errors" in figures
    assert [
        line.split()[:2] for line in figures.splitlines() if line.startswith(("checkout  ", "query  ", "fork  "))
    ] == [[workload, pool] for workload in ("checkout", "query", "fork") for pool in ("pidpool", "queuepool")]


def test_a_pool_that_did_wrong_is_not_called_slower_or_faster(run: Run) -> None:
    (sentence,) = [line for line in run.result.stdout.splitlines() if line.startswith("fork: ")]
    assert "queuepool did it wrong" in sentence
    assert "in a session of their parent's" in sentence


def test_progress_goes_to_stderr_and_both_are_plain_in_a_pipe(run: Run) -> None:
    assert "[12/12] fork, " in run.result.stderr
    assert "[12/12]" not in run.result.stdout
    assert "\x1b" not in run.result.stdout + run.result.stderr


def test_the_password_is_neither_shown_nor_written(run: Run) -> None:
    written = "".join(path.read_text() for path in run.folder.iterdir())
    assert run.password not in written + run.result.stdout + run.result.stderr


def test_the_files_hold_the_rounds_the_table_and_the_chart(run: Run) -> None:
    results = Results.from_json((run.folder / "bench.json").read_text())
    assert len(results.played) == 12
    assert results.settings.versions["server"].startswith("PostgreSQL")
    markdown = (run.folder / "bench.md").read_text()
    assert "| query | pidpool | " in markdown
    assert "- query: pidpool took" in markdown
    assert (run.folder / "bench.svg").read_text().startswith("<svg")


def test_nothing_is_created_in_the_database(run: Run, postgresql: Address) -> None:
    assert run.result.returncode == 0
    engine = create_engine(postgresql.url("psycopg"), poolclass=NullPool)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT count(*) FROM pg_tables WHERE tablename LIKE '%bench%'"))
        assert found.scalar_one() == 0


def test_workloads_without_a_database_start_none(run_pidpool: Pidpool) -> None:
    result = run_pidpool("bench", "--workload", "checkout", *QUICK)
    assert result.returncode == 0, result
    assert "PostgreSQL" not in result.stdout + result.stderr


def test_a_run_compared_with_itself_has_not_changed(run_pidpool: Pidpool, run: Run) -> None:
    file = str(run.folder / "bench.json")
    result = run_pidpool("bench", "compare", file, file, "--fail-if", "p99:+10%")
    assert result.returncode == 0, result
    assert "not significant" in result.stdout


def test_a_run_that_is_slower_fails_the_comparison(run_pidpool: Pidpool, tmp_path: Path) -> None:
    assert run_pidpool("bench", "--workload", "checkout", "--json", "a.json", *QUICK, "--rounds", "6").returncode == 0
    content = json.loads((tmp_path / "a.json").read_text())
    for played in content["rounds"]:
        played["seconds"] *= 2
    (tmp_path / "b.json").write_text(json.dumps(content))
    result = run_pidpool("bench", "compare", "a.json", "b.json", "--fail-if", "time:+10%")
    assert result.returncode == 1, result
    assert "failed: checkout, pidpool: time is +100.0%, and time:+10% is too much" in result.stdout
    assert run_pidpool("bench", "compare", "b.json", "a.json", "--fail-if", "time:+10%").returncode == 0
    assert run_pidpool("bench", "compare", "a.json", "b.json").returncode == 0


def test_a_pool_that_is_not_measured_any_more_fails_the_comparison(run_pidpool: Pidpool, run: Run) -> None:
    before = run.folder / "bench.json"
    content = json.loads(before.read_text())
    content["settings"]["pools"].remove("queuepool")
    content["rounds"] = [played for played in content["rounds"] if played["pool"] == "pidpool"]
    after = run.folder.parent / "after.json"
    after.write_text(json.dumps(content))
    result = run_pidpool("bench", "compare", str(before), str(after), "--fail-if", "p99:+1000%")
    assert result.returncode == 1, result
    assert "failed: checkout, queuepool: only the first file has measured it" in result.stdout
    assert "Warning: query, queuepool: only the first file has measured it" in result.stderr
    assert run_pidpool("bench", "compare", str(before), str(after)).returncode == 0
    assert run_pidpool("bench", "compare", str(after), str(before), "--fail-if", "p99:+1000%").returncode == 0


def test_a_damaged_file_is_named_with_what_is_wrong_in_it(run_pidpool: Pidpool, run: Run, tmp_path: Path) -> None:
    content = json.loads((run.folder / "bench.json").read_text())
    content["rounds"][3]["seconds"] = float("nan")
    (tmp_path / "edited.json").write_text(json.dumps(content))
    result = run_pidpool("bench", "compare", str(run.folder / "bench.json"), "edited.json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "edited.json cannot be used: it is damaged: rounds[3].seconds is nan" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_password_among_the_parameters_of_the_url_is_neither_shown_nor_written(
    run_pidpool: Pidpool, postgresql: Address, tmp_path: Path
) -> None:
    url = make_url(postgresql.url("psycopg"))
    query = {"user": str(url.username), "password": postgresql.password, "sslpassword": SECRET}
    moved = URL.create(url.drivername, host=url.host, port=url.port, database=url.database, query=query)
    files = ("--json", "bench.json", "--markdown", "bench.md", "--chart", "bench.svg")
    result = run_pidpool("bench", moved.render_as_string(hide_password=False), "--workload", "query", *QUICK, *files)
    assert result.returncode == 0, result
    shown = [result.stdout + result.stderr, *(path.read_text() for path in tmp_path.iterdir())]
    assert len(shown) == 4
    assert [secret for secret in (postgresql.password, SECRET) for text in shown if secret in text] == []
    assert "password=***&sslpassword=***" in json.loads((tmp_path / "bench.json").read_text())["settings"]["target"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workload", "nap"], "unknown workload 'nap'; known are checkout"),
        (["--pool", "nopool"], "unknown pool 'nopool'"),
        (["--workload", "checkout", "--chart", "no/where.svg"], "cannot be written"),
        (["--workload", "checkout", "--pool", "psycopg-pool", "--rounds", "1"], "Nothing was measured"),
        (["sqlite://"], "pidpool does not know 'sqlite' databases"),
        (["compare", "a.json"], "Missing argument 'AFTER'"),
        (["compare", "a.json", "b.json"], "a.json cannot be read: No such file"),
        (["compare", "a.json", "b.json", "--fail-if", "p99"], "'p99' is no condition: expected METRIC:+N%"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_ends_with_2_and_a_sentence(run_pidpool: Pidpool, arguments: list[str], words: str) -> None:
    result = run_pidpool("bench", *arguments)
    assert result.returncode == 2, result
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_shows_what_there_is(environment: dict[str, str], tmp_path: Path) -> None:
    command = [*COMMAND, "bench", "--workload", "checkout", "--duration", "0.2", "--rounds", "500", "--json", "a.json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/1000]"):
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "of 1000 rounds came to an end" in output
    assert "interrupted by SIGINT" in errors
    assert json.loads((tmp_path / "a.json").read_text())["interrupted"] is True


def test_compare_has_a_help_of_its_own(run_pidpool: Pidpool) -> None:
    assert "pidpool bench compare [OPTIONS] BEFORE AFTER" in run_pidpool("bench", "compare", "--help").stdout
    assert "pidpool bench [OPTIONS] [URL]" in run_pidpool("bench", "--help").stdout
