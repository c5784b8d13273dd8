"""Runs against real servers: what is shown, what is written, and which exit code says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

import pidpool
from pidpool.hazards import CATALOGUE
from tests.cli.conftest import COMMAND, call
from tests.servers import Redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Pidpool
    from tests.servers import Address

# QueuePool loses it with every driver, and both answer within a second.
HAZARD = "open-transaction"

# And a shared Redis client this.
CLIENT_HAZARD = "mid-pipeline"


@dataclass(frozen=True)
class Run:
    """A safe pool beside an unsafe one, with both files: what most tests look at from one side or another."""

    result: subprocess.CompletedProcess[str]
    folder: Path
    password: str
    schemas: list[str]
    """Those of the audit's own that it left behind; of a Redis server, the keys."""


@pytest.fixture(scope="module")
def url(postgresql: Address) -> str:
    return postgresql.url("psycopg")


@pytest.fixture(scope="module")
def run(postgresql: Address, url: str, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("audit")
    pools = ["--pool", "pidpool", "--pool", "queuepool"]
    files = ["--json", "result.json", "--markdown", "matrix.md"]
    result = call("audit", url, "--only", HAZARD, *pools, *files, folder=folder, environment=environment)
    return Run(result, folder, postgresql.password, _own_schemas(url))


def test_the_first_pool_decides_the_exit_code_and_0_means_safe(run: Run) -> None:
    assert run.result.returncode == 0, run.result
    assert f"{HAZARD} {CATALOGUE[HAZARD].title} safe LOST".split() in _words(run.result.stdout)
    assert "pidpool: safe in 1 of 1 rows." in run.result.stdout


def test_the_exit_code_is_1_if_the_first_pool_is_not_safe(run_pidpool: Pidpool, url: str) -> None:
    result = run_pidpool("audit", url, "--only", HAZARD, "--pool", "queuepool")
    assert result.returncode == 1, result
    assert f"{HAZARD} {CATALOGUE[HAZARD].title} LOST".split() in _words(result.stdout)


def test_a_line_says_what_was_lost(run: Run) -> None:
    lines = run.result.stdout.splitlines()
    assert "queuepool: not safe in 1 of 1 rows." in lines
    (finding,) = [line for line in lines if line.startswith(f"{HAZARD}, queuepool: ")]
    assert "no detail" not in finding


def test_results_go_to_stdout_and_progress_to_stderr_both_plain_in_a_pipe(run: Run) -> None:
    output, errors = run.result.stdout, run.result.stderr
    assert "\x1b" not in output + errors
    assert "…" not in output  # Nothing is cut.
    assert output.index("target") < output.index("LOST")  # Settings first.
    for pool in ("pidpool", "queuepool"):
        assert f"{HAZARD}, {pool}: " in errors
    assert "[2/2]" in errors
    assert "[2/2]" not in output


def test_the_password_is_neither_shown_nor_written(run: Run) -> None:
    written = "".join(path.read_text() for path in run.folder.iterdir())
    assert run.password not in written + run.result.stdout + run.result.stderr


def test_a_password_among_the_parameters_of_the_url_is_neither_shown_nor_written(
    run_pidpool: Pidpool, postgresql: Address, tmp_path: Path
) -> None:
    url = make_url(postgresql.url("psycopg"))
    query = {"user": str(url.username), "password": postgresql.password, "sslpassword": "s3cr3t-w0rd"}
    moved = URL.create(url.drivername, host=url.host, port=url.port, database=url.database, query=query)
    files = ("--json", "result.json", "--markdown", "matrix.md")
    result = run_pidpool("audit", moved.render_as_string(hide_password=False), "--only", HAZARD, *files)
    assert result.returncode == 0, result
    shown = [result.stdout + result.stderr, *(path.read_text() for path in tmp_path.iterdir())]
    assert len(shown) == 3
    assert [secret for secret in (postgresql.password, "s3cr3t-w0rd") for text in shown if secret in text] == []
    assert "password=***&sslpassword=***" in json.loads((tmp_path / "result.json").read_text())["settings"]["target"]


def test_the_audit_removes_what_it_created(run: Run) -> None:
    assert run.schemas == []


def test_the_json_file_holds_settings_versions_and_raw_verdicts(run: Run) -> None:
    content = json.loads((run.folder / "result.json").read_text())
    assert content["schema"] == "pidpool-audit/1"
    assert (content["safe"], content["interrupted"]) == (True, False)
    assert content["settings"]["pools"] == ["pidpool", "queuepool"]
    assert content["settings"]["driver"] == "psycopg"
    assert set(content["versions"]) >= {"pidpool", "sqlalchemy", "driver", "server", "python", "kernel", "dbutils"}
    assert content["versions"]["pidpool"] == pidpool.__version__
    assert [(verdict["pool"], verdict["outcome"]) for verdict in content["verdicts"]] == [
        ("pidpool", "safe"),
        ("queuepool", "lost"),
    ]
    assert all(verdict["hazard"] == HAZARD and verdict["seconds"] > 0 for verdict in content["verdicts"])


def test_the_markdown_file_begins_with_a_table_for_a_readme(run: Run) -> None:
    table, *rest = (run.folder / "matrix.md").read_text().split("\n\n")
    assert table.splitlines() == [
        "| hazard | the child ... | pidpool | queuepool |",
        "| --- | --- | --- | --- |",
        f"| `{HAZARD}` | {CATALOGUE[HAZARD].title} | safe | **LOST** |",
    ]
    assert f"- {HAZARD}, queuepool: " in "\n".join(rest)


def test_no_temporary_file_is_left_beside_the_results(run: Run) -> None:
    assert {path.name for path in run.folder.iterdir()} == {"result.json", "matrix.md"}


def test_mariadb_is_audited_too_with_the_url_from_the_environment(run_pidpool: Pidpool, mariadb: Address) -> None:
    result = run_pidpool("audit", "--only", HAZARD, env={"PIDPOOL_AUDIT_URL": mariadb.url("pymysql")})
    assert result.returncode == 0, result
    assert result.stdout.count("MariaDB") == 1
    assert mariadb.password not in result.stdout + result.stderr


@pytest.fixture(scope="module")
def redis_run(run_folder: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Audit a server that wants a password."""
    server = Redis(run_folder)
    port = server.start().port
    password = "s3cr3t-w0rd"
    with redis.Redis(port=port) as client:
        client.config_set("requirepass", password)
    folder = tmp_path_factory.mktemp("audit")
    arguments = ["--only", CLIENT_HAZARD, "--json", "result.json", "--markdown", "matrix.md"]
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    result = call("audit", url, *arguments, folder=folder, environment=environment)
    with redis.Redis(port=port, password=password, decode_responses=True) as client:
        yield Run(result, folder, password, client.keys())
    server.remove()


class TestRedis:
    """The same command for clients that are no SQL connections."""

    def test_the_pools_are_those_that_fit(self, redis_run: Run) -> None:
        assert redis_run.result.returncode == 0, redis_run.result
        assert f"{CLIENT_HAZARD} {CATALOGUE[CLIENT_HAZARD].title} safe LOST LOST".split() in _words(
            redis_run.result.stdout
        )
        assert "pidpool: safe in 1 of 1 rows." in redis_run.result.stdout
        assert "redis-py: not safe in 1 of 1 rows." in redis_run.result.stdout

    def test_the_versions_are_those_of_redis(self, redis_run: Run) -> None:
        content = json.loads((redis_run.folder / "result.json").read_text())
        assert content["settings"]["driver"] == "redis-py"
        assert content["settings"]["pools"] == ["pidpool", "redis-py", "redis-py+disconnect"]
        assert content["versions"]["driver"] == redis.__version__
        assert content["versions"]["server"].split()[0] in {"Redis", "Valkey"}
        assert f"redis-py {redis.__version__}" in (redis_run.folder / "matrix.md").read_text()
        assert f"redis-py {redis.__version__}" in redis_run.result.stdout

    def test_the_password_is_neither_shown_nor_written(self, redis_run: Run) -> None:
        written = "".join(path.read_text() for path in redis_run.folder.iterdir())
        assert redis_run.password not in written + redis_run.result.stdout + redis_run.result.stderr
        assert "redis://:***@127.0.0.1" in redis_run.result.stdout

    def test_the_audit_removes_what_it_created(self, redis_run: Run) -> None:
        assert redis_run.schemas == []

    def test_without_only_it_plays_the_rows_that_fit(
        self, run_pidpool: Pidpool, redis_url: str, tmp_path: Path
    ) -> None:
        result = run_pidpool("audit", redis_url, "--pool", "pidpool", "--json", "result.json")
        content = json.loads((tmp_path / "result.json").read_text())
        rows = {hazard.name for hazard in CATALOGUE.values() if hazard.needs == "client"}
        assert result.returncode == 0, result
        assert set(content["hazards"]) == rows
        assert {verdict["outcome"] for verdict in content["verdicts"]} == {"safe"}

    def test_with_only_a_row_that_does_not_fit_is_skipped(self, run_pidpool: Pidpool, redis_url: str) -> None:
        result = run_pidpool("audit", redis_url, "--only", "gc", "--pool", "pidpool")
        assert result.returncode == 2, result
        assert "gc, pidpool: skipped, only for SQL connections" in result.stdout
        assert "Nothing was tested" in result.stderr


def test_a_sqlite_file_is_audited_for_what_it_can_have(run_pidpool: Pidpool, tmp_path: Path) -> None:
    result = run_pidpool("audit", "sqlite:///file.db", "--pool", "pidpool", "--json", "result.json")
    assert result.returncode == 0, result
    assert list(json.loads((tmp_path / "result.json").read_text())["hazards"]) == ["sqlite"]
    assert "skipped" not in result.stdout


def test_a_pool_class_and_a_function_of_yours_can_be_audited(run_pidpool: Pidpool, url: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from sqlalchemy import create_engine\n"
        "from sqlalchemy.pool import QueuePool\n"
        "from pidpool import PidPool\n"
        "class Pool(QueuePool):\n"
        "    pass\n"
        "def engine(url):\n"
        "    return create_engine(url, poolclass=PidPool)\n"
    )
    result = run_pidpool("audit", url, "--only", HAZARD, "--pool", "mine:engine", "--pool", "mine:Pool")
    assert result.returncode == 0, result
    assert f"{HAZARD} {CATALOGUE[HAZARD].title} safe LOST".split() in _words(result.stdout)


def test_a_pool_that_could_not_be_tested_at_all_is_not_called_safe(run_pidpool: Pidpool, mariadb: Address) -> None:
    result = run_pidpool(
        "audit", mariadb.url("pymysql"), "--only", HAZARD, "--pool", "psycopg-pool", "--pool", "pidpool"
    )
    assert result.returncode == 2, result
    assert f"{HAZARD}, psycopg-pool: skipped, " in result.stdout
    assert "Nothing was tested" in result.stderr


def test_a_pool_with_which_nothing_could_be_played_is_called_neither_safe_nor_unsafe(
    run_pidpool: Pidpool, url: str, tmp_path: Path
) -> None:
    result = run_pidpool("audit", url, "--only", HAZARD, "--pool", "os:getcwd", "--json", "result.json")
    assert result.returncode == 2, result
    assert "os:getcwd: could not be played in 1 of 1 rows." in result.stdout
    assert "could be played with os:getcwd" in result.stderr
    assert json.loads((tmp_path / "result.json").read_text())["safe"] is False


def test_the_verdict_counts_and_the_file_is_written_though_nobody_reads_on(
    environment: dict[str, str], url: str, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [url, "--only", HAZARD, "--pool", "pidpool", "--json", "result.json"]
    result = subprocess.run(
        [*COMMAND, "audit", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    os.close(writer)
    assert result.returncode == 0, result
    assert json.loads((tmp_path / "result.json").read_text())["safe"] is True


def test_dev_stdout_is_written_to_and_what_it_leads_to_not_replaced(
    environment: dict[str, str], url: str, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    log.write_text("an earlier line\n")
    arguments = [url, "--only", HAZARD, "--pool", "pidpool", "--json", "/dev/stdout"]
    with log.open("a") as stream:
        subprocess.run(
            [*COMMAND, "audit", *arguments], stdout=stream, stderr=subprocess.PIPE, check=True, env=environment
        )
    words = log.read_text()
    assert words.startswith("an earlier line\ntarget")
    assert words.index('"pidpool-audit/1"') < words.index("pidpool: safe in 1 of 1 rows.")


def test_where_nothing_can_be_created_the_audit_refuses(run_pidpool: Pidpool, postgresql: Address) -> None:
    administrator = create_engine(postgresql.url("psycopg"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    role = f"reader_{os.getpid()}"
    with administrator.connect() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'r3ad3r'"))
    try:
        reader = administrator.url.set(username=role, password="r3ad3r")
        result = run_pidpool("audit", reader.render_as_string(hide_password=False))
    finally:
        with administrator.connect() as connection:
            connection.execute(text(f"DROP ROLE {role}"))
    assert (result.returncode, result.stdout) == (2, "")
    assert "create" in result.stderr
    assert "r3ad3r" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_signal_stops_the_scenarios_shows_what_is_known_and_removes_what_was_created(
    environment: dict[str, str], url: str, tmp_path: Path
) -> None:
    arguments = [url, "--jobs", "1", "--pool", "pidpool", "--json", str(tmp_path / "result.json")]
    with _started("audit", *arguments, environment=environment) as process:
        _wait_for("[1/", process)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        taken = time.monotonic() - begun
    assert process.returncode == 143, errors
    assert "interrupted by SIGTERM" in errors
    assert taken < 10
    content = json.loads((tmp_path / "result.json").read_text())
    assert (content["interrupted"], content["safe"]) == (True, False)
    # A busy machine may deliver the signal after the second verdict.
    done, total = len(content["verdicts"]), len(content["hazards"])
    assert 1 <= done < total
    assert f"Interrupted: {done} of {total} scenarios" in output
    assert "not run" in output
    assert _own_schemas(url) == []


class TestWithoutUrl:
    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """Where the command makes its temporary folders; short, since a socket's path must be."""
        with tempfile.TemporaryDirectory(prefix="pidpool-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            folder.chmod(0o777)  # As root the server runs as another user.
            yield folder

    def test_a_throw_away_server_is_started_announced_and_removed(self, run_pidpool: Pidpool, folder: Path) -> None:
        result = run_pidpool("audit", "--only", HAZARD, "--pool", "pidpool", env={"TMPDIR": str(folder)})
        assert result.returncode == 0, result
        assert "throw-away PostgreSQL" in result.stderr
        assert list(folder.iterdir()) == []
        assert _servers_in(folder) == []

    def test_ctrl_c_leaves_no_server_no_folder_and_no_scenario_behind(
        self, environment: dict[str, str], folder: Path
    ) -> None:
        with _started("audit", environment={**environment, "TMPDIR": str(folder)}) as process:
            _wait_for("[1/", process)
            assert _servers_in(folder)
            scenarios = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)  # People press it twice.
            output, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert "Interrupted: " in output
        assert list(folder.iterdir()) == []
        assert _servers_in(folder) == []
        assert psutil.wait_procs(scenarios, timeout=5)[1] == []

    def test_ctrl_c_while_the_server_starts_leaves_nothing_behind_either(
        self, environment: dict[str, str], folder: Path
    ) -> None:
        with _started("audit", environment={**environment, "TMPDIR": str(folder)}) as process:
            _wait_for("throw-away PostgreSQL", process)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert list(folder.iterdir()) == []
        assert _servers_in(folder) == []


def _words(output: str) -> list[list[str]]:
    """Return each line's words: a table's columns are as wide as they need to be."""
    return [line.split() for line in output.splitlines()]


def _own_schemas(url: str) -> list[str]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        statement = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pidpool%'"
        return list(connection.scalars(text(statement)))


def _started(*arguments: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A test run in a shell's background ignores SIGINT, and its children would inherit that.
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - one call of signal(2)
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for(words: str, process: subprocess.Popen[str]) -> None:
    """Read what `process` reports until `words` appear in it."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"the command ended before it said {words!r}: {''.join(seen)}")


def _servers_in(folder: Path) -> list[int]:
    """Return the PostgreSQL servers whose data lies below `folder`."""
    return [
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and any(str(folder) in part for part in process.info["cmdline"] or [])
    ]
