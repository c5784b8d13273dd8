"""What is published says what was measured: nothing is missed in silence, and nothing is older than its results."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import report
from benchmarks.record import Record
from benchmarks.suites import SUITES, Servers
from benchmarks.targets import TARGETS, Target
from pidpool.bench import Round

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Address

VERSIONS = {"pidpool": "1", "python": "3.11.7", "sqlalchemy": "2.1.9", "kernel": "Linux 6"}
JITTER = (0.98, 1.0, 1.02, 0.99, 1.01, 0.97)


def record(**pools: list[Round]) -> Record:
    made = Record(VERSIONS, 2, 0.5, 6, 0.4, day="2026-11-22")
    for pool, rounds in pools.items():
        for number, each in enumerate(rounds):
            made.add(SUITES["checkout"], pool, number, each)
    return made


def steady(seconds: float, **fields: int) -> list[Round]:
    return [replace(Round("done", operations=9, seconds=seconds * jitter), **fields) for jitter in JITTER]  # type: ignore[arg-type]


def target(limit: float, *, at_least: bool = False) -> Target:
    return Target("x", lambda of: of.ratios("checkout", "ours", "theirs"), lambda _: limit, at_least=at_least)


def test_the_documents_are_those_of_the_results() -> None:
    for path, content in report.files(report.read()).items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `python -m benchmarks.report`"


def test_whatever_is_missed_in_what_we_publish_has_its_reason_in_targets() -> None:
    published = [record for record in report.read() if not record.is_quick]
    assert [target.against for target in report.without_reason(published)] == []


def test_a_missed_target_without_a_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    missed = record(ours=steady(0.3), theirs=steady(1.0))
    monkeypatch.setattr(report, "TARGETS", (target(0.2), target(0.4), replace(target(0.1), reason="physics")))
    assert [each.limit(missed) for each in report.without_reason([missed])] == [0.2]


def test_each_environment_is_the_one_of_its_file() -> None:
    paths = sorted(report.RESULTS.glob("*.json"))
    assert [Record.read(path).key for path in paths] == [path.stem for path in paths]


def test_each_chart_has_a_place_in_the_page_and_each_suite_one_in_the_method() -> None:
    page, method = report.PAGE.read_text(encoding="utf-8"), (report.ROOT / "benchmarks" / "README.md").read_text()
    assert [name for name in report.CHARTS if f"(charts/{name}.svg)" not in page] == []
    assert [name for name in SUITES if f"| `{name}` |" not in method] == []


@pytest.mark.parametrize(
    ("limit", "at_least", "words"),
    [
        (0.5, False, "met"),
        (0.25, False, "**missed by 20.0%**"),
        (0.2, True, "met"),
        (0.6, True, "**missed by 50.0%**"),
        (0.302, False, "met, not significant"),
    ],
)
def test_a_verdict_says_by_how_much_and_whether_that_is_sure(limit: float, words: str, *, at_least: bool) -> None:
    ours = [replace(each, seconds=each.seconds and each.seconds * 0.3) for each in reversed(steady(1.0))]
    if "not" in words:
        ours[0], ours[1] = replace(ours[0], seconds=0.2), replace(ours[1], seconds=0.4)
    verdict = target(limit, at_least=at_least).verdict(record(ours=ours, theirs=steady(1.0)))
    assert verdict.words == words


def test_too_few_rounds_are_said_to_be_too_few() -> None:
    verdict = target(0.5).verdict(record(ours=steady(0.3)[:5], theirs=steady(1.0)[:5]))
    assert verdict.words == "met, 5 rounds are too few to tell"


def test_a_pool_that_did_wrong_has_met_nothing() -> None:
    verdict = target(0.5).verdict(record(ours=steady(0.1, wrong=1), theirs=steady(1.0)))
    assert (verdict.is_met, verdict.words) == (None, "not measured")


def test_of_counts_the_worst_round_decides() -> None:
    counts = Target(
        "x", lambda of: [each.timeouts for each in of.clean("checkout", "ours")], lambda _: 0, is_count=True
    )
    rounds = steady(1.0)
    assert counts.verdict(record(ours=rounds)).words == "met"
    verdict = counts.verdict(record(ours=[*rounds[:5], replace(rounds[5], timeouts=1)]))
    assert (verdict.words, verdict.missed_by) == ("**missed**", math.inf)


def test_what_is_missed_is_listed_with_its_reason_or_with_the_lack_of_one() -> None:
    made = record(pidpool=steady(0.5), queuepool=steady(1.0))
    row = TARGETS[0].against
    assert f"- {row} (Python 3.11, SQLAlchemy 2.1): " in report.page([made])
    assert "**missed by 150.0%**" in report.page([made])
    assert f"- {row}" not in report.page([record(pidpool=steady(0.1), queuepool=steady(1.0))])


def test_a_file_gives_back_what_counts(tmp_path: Path) -> None:
    made = record(pidpool=steady(0.5, wrong=2), queuepool=[Round("skipped", "why")])
    made.write(tmp_path / "file.json")
    assert Record.read(tmp_path / "file.json") == made


def test_suites_are_kept_under_the_same_circumstances_alone() -> None:
    earlier, later = record(pidpool=steady(0.5)), record()
    assert not replace(later, versions={**VERSIONS, "sqlalchemy": "2.0.1"}, played={}).keep(earlier)
    assert not replace(later, rounds=7, played={}).keep(earlier)
    assert later.keep(earlier)
    assert later.pools("checkout") == ["pidpool"]


def test_a_rehearsal_is_called_one() -> None:
    made = record(pidpool=steady(0.5), queuepool=steady(1.0))
    assert "Rehearsed" in report.page([replace(made, is_quick=True)])
    assert "Rehearsed" not in report.page([made])


def test_the_server_counts_the_rollbacks_that_queuepool_sends_and_pidpool_does_not(mariadb: Address) -> None:
    servers = Servers(postgresql="", mariadb=mariadb.url("pymysql"))
    played = dict(SUITES["pymysql"].play(("pidpool", "queuepool"), servers, 0.1))
    ours, theirs = played["pidpool"], played["queuepool"]
    # Other tests may ask the same server something meanwhile: that is much less than a ROLLBACK for each checkout.
    assert ours.statements is not None
    assert theirs.statements is not None
    assert ours.statements < ours.operations / 10
    assert theirs.statements >= theirs.operations


def test_a_pool_that_cannot_be_measured_holds_up_none_of_the_others() -> None:
    servers = Servers(postgresql="", mariadb="")
    played = dict(SUITES["checkout"].play(("pidpool", "no such pool", "PooledDB"), servers, 0.05))
    assert {pool: each.outcome for pool, each in played.items()} == {
        "pidpool": "done",
        "no such pool": "error",
        "PooledDB": "done",
    }
    assert played["pidpool"].is_clean
    assert "no such pool" in played["no such pool"].detail
