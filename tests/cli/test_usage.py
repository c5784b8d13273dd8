"""What the command says when it is asked for something other than a run, or for something impossible."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pidpool
from pidpool.hazards import CATALOGUE, CLIENTS, CONTROLS, SUBJECTS
from tests.cli.conftest import COMMAND

if TYPE_CHECKING:
    from tests.cli.conftest import Pidpool
    from tests.conftest import RunScript
    from tests.servers import Address

SECRET = "s3cr3t-w0rd"


@pytest.fixture
def nobody() -> str:
    """A URL with a password, for a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"postgresql+psycopg://somebody:{SECRET}@127.0.0.1:{port}/database"


def test_version_is_the_packages(run_pidpool: Pidpool) -> None:
    result = run_pidpool("--version")
    assert (result.returncode, result.stdout) == (0, f"pidpool, version {pidpool.__version__}\n")


def test_help_names_the_commands_and_their_options(run_pidpool: Pidpool) -> None:
    assert "audit" in run_pidpool("--help").stdout
    text = run_pidpool("audit", "--help").stdout
    for option in ("--pool", "--only", "--list", "--explain", "--json", "--markdown", "--timeout", "--jobs"):
        assert option in text
    assert "PIDPOOL_AUDIT_URL" in text


def test_without_a_command_it_shows_its_help(run_pidpool: Pidpool) -> None:
    result = run_pidpool()
    assert (result.returncode, result.stdout) == (2, "")
    assert "audit" in result.stderr
    assert "130 for Ctrl-C" in result.stderr


def test_list_names_every_hazard_and_every_pool(run_pidpool: Pidpool) -> None:
    result = run_pidpool("audit", "--list")
    assert result.returncode == 0
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert set(CATALOGUE) | set(SUBJECTS) | set(CONTROLS) | set(CLIENTS) | {"module:Class", "module:function"} <= listed
    for hazard in CATALOGUE.values():
        assert hazard.title in result.stdout


@pytest.mark.parametrize(
    ("url", "kind", "pools"),
    [
        ("redis://host/0", "client", {*CLIENTS}),
        ("rediss://host/0", "client", {*CLIENTS}),
        ("unix:///socket", "client", {*CLIENTS}),
        ("sqlite:///file.db", "file", {*SUBJECTS, *CONTROLS, "module:Class"}),
        ("sqlite+aiosqlite:///file.db", "file", {*SUBJECTS, *CONTROLS, "module:Class"}),
        ("mysql+pymysql://host/database", "server", {*SUBJECTS, *CONTROLS, "module:Class"}),
    ],
)
def test_list_with_a_url_names_what_fits_it(run_pidpool: Pidpool, url: str, kind: str, pools: set[str]) -> None:
    result = run_pidpool("audit", "--list", url)
    words = [
        line.split()[0]
        for line in result.stdout.splitlines()
        if line.strip() and line[0] != "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    ]
    hazards = {hazard.name for hazard in CATALOGUE.values() if hazard.needs == kind}
    assert set(words) == hazards | pools | {"hazard", "pool", "module:function"}
    assert words.count("pool") == 1


def test_explain_tells_the_story_the_advice_and_the_source_of_every_hazard(
    run_script: RunScript, environment: dict[str, str]
) -> None:
    # One process for all of them: starting one takes longer than explaining a hazard.
    result = run_script(
        """
        import sys
        from pidpool.cli import main
        for name in sys.argv[1:]:
            sys.argv = ["pidpool", "audit", "--explain", name]
            try:
                main()
            except SystemExit as end:
                assert end.code == 0, name
            print("END", flush=True)
        """,
        *CATALOGUE,
        env=environment,
    )
    assert result.returncode == 0, result
    assert "\x1b" not in result.stdout
    explanations = result.stdout.split("END\n")
    for hazard, explanation in zip(CATALOGUE.values(), explanations, strict=False):
        assert hazard.source.rstrip() in explanation
        flowing = " ".join(explanation.split())  # Prose is folded; its words are all there.
        for text in (hazard.title, hazard.story, hazard.advice, hazard.promise):
            assert " ".join(text.split()) in flowing


@pytest.mark.parametrize(
    ("variables", "colored"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_only_a_terminal_that_wants_them_gets_escape_sequences(
    environment: dict[str, str], variables: dict[str, str], *, colored: bool
) -> None:
    assert ("\x1b[" in _on_terminal([*COMMAND, "audit", "--explain", "gc"], {**environment, **variables})) is colored


@pytest.mark.parametrize("arguments", [["--only", "nonsense"], ["--explain", "nonsense"], ["--only", "gc,nonsense"]])
def test_an_unknown_hazard_is_answered_with_the_known_ones(run_pidpool: Pidpool, arguments: list[str]) -> None:
    result = run_pidpool("audit", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "nonsense" in result.stderr
    for name in CATALOGUE:
        assert name in result.stderr


@pytest.mark.parametrize("names", ["", ","])
@pytest.mark.parametrize("arguments", [["audit", "--only"], ["bench", "--workload"]])
def test_naming_nothing_does_not_mean_everything(run_pidpool: Pidpool, arguments: list[str], names: str) -> None:
    result = run_pidpool(*arguments, names)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{arguments[1]} names no " in result.stderr


def test_a_time_limit_too_short_for_any_scenario_is_refused(run_pidpool: Pidpool) -> None:
    result = run_pidpool("audit", "--timeout", "0.05")
    assert (result.returncode, result.stdout) == (2, "")
    assert "'--timeout'" in result.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "-1", ""])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("audit", "--timeout"),
        ("audit", "--jobs"),
        ("bench", "--duration"),
        ("bench", "--rounds"),
        ("bench", "--threads"),
        ("bench", "--processes"),
    ],
)
def test_a_number_out_of_range_is_refused(run_pidpool: Pidpool, command: str, option: str, value: str) -> None:
    result = run_pidpool(command, option, value)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"Invalid value for '{option}'" in result.stderr


@pytest.mark.parametrize("pool", ["nonsense", "no_such_module:Pool", "os:no_such_name"])
def test_an_unknown_pool_is_answered_with_the_known_ones(run_pidpool: Pidpool, pool: str) -> None:
    result = run_pidpool("audit", "--pool", "pidpool", "--pool", pool)
    assert (result.returncode, result.stdout) == (2, "")
    assert pool in result.stderr
    for name in SUBJECTS:
        assert name in result.stderr


@pytest.mark.parametrize(
    ("url", "pool", "says"),
    [
        ("redis://host", "queuepool", "is a pool of SQL connections"),
        ("redis://host", "queuepool+before-fork", "is a pool of SQL connections"),
        ("redis://host", "nonsense", "unknown client"),
        ("redis://host", "sqlalchemy.pool:QueuePool", "is not a function that takes a URL and returns a client"),
        ("postgresql://host/database", "redis-py", "shares a Redis client"),
        ("sqlite:///file.db", "redis-py+disconnect", "shares a Redis client"),
    ],
)
def test_a_pool_that_does_not_fit_the_url_is_answered_with_those_that_do(
    run_pidpool: Pidpool, url: str, pool: str, says: str
) -> None:
    result = run_pidpool("audit", url, "--pool", pool)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{pool!r} {says}" in result.stderr or f"{says} {pool!r}" in result.stderr
    for name in CLIENTS if url.startswith("redis") else SUBJECTS:
        assert name in result.stderr


def test_the_bench_says_that_it_does_not_take_redis(run_pidpool: Pidpool) -> None:
    result = run_pidpool("bench", f"redis://:{SECRET}@host/0")
    assert (result.returncode, result.stdout) == (2, "")
    assert "pidpool audit takes that of a Redis server" in result.stderr
    assert SECRET not in result.stderr


def test_without_redis_py_the_command_says_what_to_install(run_script: RunScript, environment: dict[str, str]) -> None:
    result = run_script(
        """
        import sys
        sys.modules["redis"] = None  # What an environment without it looks like to an import.
        sys.argv = ["pidpool", "audit", "redis://127.0.0.1:1/0"]
        from pidpool.cli import main
        main()
        """,
        env=environment,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "pip install redis" in result.stderr


def test_an_unreachable_server_is_named_and_the_password_is_not(run_pidpool: Pidpool, nobody: str) -> None:
    result = run_pidpool("audit", nobody)
    assert result.returncode == 2
    assert "127.0.0.1" in result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_a_wrong_password_is_not_shown(run_pidpool: Pidpool, postgresql: Address) -> None:
    url = postgresql.url("psycopg").replace(postgresql.password, SECRET)
    result = run_pidpool("audit", url)
    assert result.returncode == 2
    assert SECRET not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"somebody:{SECRET}@host/database",
        f"postgresql+psycopg://somebody:{SECRET}@host:port/database",
        f"postgresql+asyncpg://somebody:{SECRET}@127.0.0.1/database",
        f"nonsense://somebody:{SECRET}@127.0.0.1/database",
        f"redis://:{SECRET}@127.0.0.1:1/0",
        f"redis://{SECRET}@127.0.0.1:1/0",
        f"redis://somebody:{SECRET}@127.0.0.1:port/0",
        f"redis://127.0.0.1:1/0?password={SECRET}",
        f"rediss://:{SECRET}@127.0.0.1:1/0",
        f"unix://:{SECRET}@/no/such/socket",
        "sqlite://",
    ],
)
def test_an_unusable_url_is_refused_without_its_password(run_pidpool: Pidpool, url: str) -> None:
    result = run_pidpool("audit", url)
    assert (result.returncode, result.stdout) == (2, "")
    assert SECRET not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://somebody:p@{SECRET}@127.0.0.1/database",
        f"mysql+pymysql://somebody:p@{SECRET}@127.0.0.1/database",
        f"postgresql+pg8000://somebody:se/cr@{SECRET}@127.0.0.1/database",
        f"postgresql+psycopg://somebody:p@ss@wo/{SECRET}@host:notaport/database",
        f"postgresql+psycopg://somebody:p@{SECRET}?x@127.0.0.1/database",
        f"postgresql+psycopg://somebody/{SECRET}@127.0.0.1/database",
        f"redis://:p@{SECRET}@127.0.0.1/0",
        f"redis://somebody/{SECRET}@127.0.0.1/0",
    ],
)
def test_a_password_that_is_not_escaped_is_refused_and_no_part_of_it_shown(run_pidpool: Pidpool, url: str) -> None:
    result = run_pidpool("audit", url)
    assert (result.returncode, result.stdout) == (2, "")
    assert "percent-encode" in result.stderr
    assert SECRET not in result.stderr


def test_the_example_of_a_url_is_readable(run_pidpool: Pidpool) -> None:
    assert "postgresql+psycopg://user:password@host/database" in run_pidpool("audit", "nonsense").stderr


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full"])
@pytest.mark.parametrize("arguments", ["audit --list", "--help"])
def test_results_that_reach_nobody_are_an_error(environment: dict[str, str], arguments: str, redirection: str) -> None:
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    result = _in_shell(f'"$@" {arguments} {redirection}', environment)
    assert result.returncode == 2, result
    assert re.fullmatch(r"pidpool: stdout cannot be written: .+\.\n", result.stderr)


def test_a_reader_who_has_seen_enough_is_no_error(environment: dict[str, str]) -> None:
    result = _in_shell('{ "$@" audit --list; echo "exit code $?" >&2; } | true', environment)
    assert result.stderr == "exit code 0\n"


def test_ctrl_c_while_the_command_is_being_loaded_is_quiet(run_script: RunScript, environment: dict[str, str]) -> None:
    result = run_script(
        """
        import signal
        import sys

        class Impatient:
            @staticmethod
            def find_spec(name, *_):
                if name == "rich":
                    signal.raise_signal(signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job ignores it.
        sys.meta_path.insert(0, Impatient)
        from pidpool.cli import main
        main()
        """,
        env=environment,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["{url}"],
        ["audit", "{url}", "{url}"],
        ["audit", "--pool", "{url}"],
        ["audit", "--only", "{url}"],
        ["audit", "--timeout", "{url}"],
        ["audit", "{url}?password=" + SECRET],
        ["audit", "a", f"postgresql://somebody:it's@{SECRET}@host/database"],
    ],
)
def test_a_password_in_the_wrong_place_is_not_shown_either(
    run_pidpool: Pidpool, nobody: str, arguments: list[str]
) -> None:
    result = run_pidpool(*(argument.replace("{url}", nobody) for argument in arguments))
    assert (result.returncode, result.stdout) == (2, "")
    assert SECRET not in result.stderr


def test_the_environment_may_hold_the_url(run_pidpool: Pidpool, nobody: str) -> None:
    result = run_pidpool("audit", env={"PIDPOOL_AUDIT_URL": nobody})
    assert result.returncode == 2
    assert "127.0.0.1" in result.stderr
    assert SECRET not in result.stderr


@pytest.mark.parametrize(
    ("option", "path"), [("--json", "."), ("--json", "no/such/folder/file"), ("--markdown", "file/below")]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_run(
    run_pidpool: Pidpool, tmp_path: Path, nobody: str, option: str, path: str
) -> None:
    (tmp_path / "file").touch()
    result = run_pidpool("audit", nobody, option, path)
    assert (result.returncode, result.stdout) == (2, "")
    assert path in result.stderr
    assert "127.0.0.1" not in result.stderr  # It did not even connect.


@pytest.mark.parametrize(
    ("command", "outputs"),
    [
        ("audit", ["--json", "new", "--markdown", "new"]),
        ("audit", ["--json", "new", "--markdown", "folder/../new"]),
        ("audit", ["--json", "old", "--markdown", "hard"]),
        ("bench", ["--json", "old", "--chart", "soft"]),
        ("bench", ["--json", "new", "--markdown", "dangling"]),
        ("bench", ["--json", "a", "--markdown", "new", "--chart", "./new"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_two_outputs_in_one_file_are_refused_before_the_run(
    run_pidpool: Pidpool, tmp_path: Path, nobody: str, command: str, outputs: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "old").write_text("kept")
    (tmp_path / "hard").hardlink_to(tmp_path / "old")
    (tmp_path / "soft").symlink_to("old")
    (tmp_path / "dangling").symlink_to("new")
    result = run_pidpool(command, nobody, *outputs)
    assert (result.returncode, result.stdout) == (2, "")
    assert "are the same file" in result.stderr
    assert (tmp_path / "old").read_text() == "kept"


@pytest.mark.parametrize("outputs", ["--json log", "--json /dev/stdout --markdown log"])
def test_a_file_to_which_stdout_goes_is_not_replaced(
    environment: dict[str, str], tmp_path: Path, nobody: str, outputs: str
) -> None:
    result = _in_shell(f'cd {tmp_path} && "$@" audit {nobody} {outputs} > log', environment)
    assert result.returncode == 2, result
    assert "log is where the rest of the output goes" in result.stderr


@pytest.mark.parametrize("file", ["/dev/null", "/dev/stdout"])
def test_what_is_no_file_of_its_own_takes_several_outputs(run_pidpool: Pidpool, nobody: str, file: str) -> None:
    result = run_pidpool("audit", nobody, "--json", file, "--markdown", file)
    assert "cannot connect" in result.stderr  # It has come as far as that.


def test_without_the_extra_the_command_says_what_to_install(run_script: RunScript, environment: dict[str, str]) -> None:
    result = run_script(
        """
        import sys
        sys.modules["click"] = None  # What an installation without it looks like to an import.
        from pidpool.cli import main
        main()
        """,
        env=environment,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "pip install 'pidpool[cli]'" in result.stderr


def _in_shell(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `script`, in which "$@" is the command."""
    command = ["sh", "-c", script, "sh", *COMMAND]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def _on_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run `command` on a pseudo-terminal and return what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        # Linux reports the end of a terminal as an input/output error.
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    return written.decode()
