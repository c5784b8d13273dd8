"""What a run is made into: sentences, warnings, a file, a comparison, a chart."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from pidpool.bench import (
    Comparison,
    Condition,
    ConditionError,
    Load,
    Played,
    Results,
    ResultsError,
    Round,
    Settings,
)
from pidpool.bench.chart import Bar, Panel, draw, of_results
from pidpool.bench.figures import Spread
from pidpool.bench.verdicts import sentences, warnings
from pidpool.cli import bench_report

GONE = object()
"""Stands for a field that somebody has deleted."""

JITTER = (0.98, 1.0, 1.02, 0.99, 1.01, 1.0, 0.97, 1.03)


def a_round(seconds: float = 1.0, **fields: object) -> Round:
    found = Round("done", operations=10, seconds=seconds, percentiles=tuple([seconds] * 101))
    return replace(found, **fields)  # type: ignore[arg-type]


def results(workload: str = "query", /, **rounds: list[Round]) -> Results:
    versions = {"pidpool": "1", "sqlalchemy": "2.1", "python": "3.11", "kernel": "Linux 6"}
    settings = Settings((workload,), tuple(rounds), 8, Load(), 2, 0.5, versions)
    played = [Played(workload, pool, number, each) for pool, many in rounds.items() for number, each in enumerate(many)]
    return Results(settings, played, load_average_after=0.5)


def steady(seconds: float) -> list[Round]:
    return [a_round(seconds * jitter) for jitter in JITTER]


def test_a_faster_pool_is_called_so_with_its_spread() -> None:
    (sentence,) = sentences(results(ours=steady(0.3), theirs=steady(1.0)))
    assert sentence == "query: ours took 0.30 of theirs's time, between 0.30 and 0.30 in half of the rounds."


def test_a_difference_within_the_noise_is_not_called_one() -> None:
    mixed = [a_round(1.0 if number % 2 else 1.05) for number in range(8)]
    (sentence,) = sentences(results(ours=mixed, theirs=steady(1.02)))
    assert "not significant" in sentence


def test_too_few_rounds_are_said_to_be_too_few() -> None:
    (sentence,) = sentences(results(ours=steady(0.3)[:5], theirs=steady(1.0)[:5]))
    assert "5 rounds are too few" in sentence
    (sentence,) = sentences(results(ours=steady(0.3)[:1], theirs=steady(1.0)[:1]))
    assert "1 round is too few" in sentence


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"wrong": 1}, "1 wrong row"),
        ({"shared": 2}, "2 children in a session of their parent's"),
        ({"errors": 3}, "3 errors"),
        ({"hung": 4}, "4 children that hung"),
        ({"outcome": "hang"}, "1 round that hung"),
        ({"outcome": "error"}, "1 round that failed"),
    ],
)
@pytest.mark.parametrize("culprit", ["ours", "theirs"])
def test_a_pool_that_did_wrong_once_is_not_called_faster(culprit: str, harm: dict[str, object], words: str) -> None:
    rounds = {"ours": steady(1.0), "theirs": steady(1.0)}
    rounds[culprit] = [a_round(0.01, **harm), *steady(0.01)[1:]]
    (sentence,) = sentences(results(**rounds))
    assert sentence == f"query: {culprit} did it wrong ({words}), so its time does not count."


def test_rounds_are_compared_with_those_of_the_same_number() -> None:
    # The machine became ten times slower in between: the ratio did not change.
    drift = [10.0 ** (number / 7) for number in range(8)]
    ours, theirs = ([a_round(seconds * factor) for factor in drift] for seconds in (0.5, 1.0))
    assert results(ours=ours, theirs=theirs).ratios("query", "ours", "theirs") == pytest.approx([0.5] * 8)


def test_warnings_name_a_busy_machine_and_a_wide_spread() -> None:
    run = results(ours=[a_round(1.0), a_round(2.0), a_round(3.0)])
    run.settings = replace(run.settings, load_average=2.5)
    load, spread = warnings(run)
    assert "load 2.5 on 2 cores before" in load
    assert "query, ours: the quartiles are 50%" in spread
    assert warnings(results(ours=steady(1.0))) == []


def test_one_of_a_kind_is_no_plural() -> None:
    run = results("storm", ours=[a_round(timeouts=1)])
    load = Load(threads=1, connections=1, processes=1, inherited=1)
    run.settings = replace(run.settings, workloads=("contended", "storm"), rounds=1, load=load, cores=1)
    words = [*bench_report.facts(run.settings).values(), *warnings(replace(run, load_average_after=9.0))]
    words += [row.remarks for row in bench_report.rows(run)] + [of_results(run)]
    said = "; ".join(words)
    for expected in (
        "1 thread over 1 connection,",
        "1 child at once, 1 inherited connection;",
        "1 timeout;",
        "1 core ",
    ):
        assert expected in said
    assert re.search(r"\b1 (thread|connection|inherited connection|core|round|timeout)s\b|\b1 children", said) is None


def test_a_file_gives_back_what_was_written_into_it() -> None:
    run = results(ours=steady(0.3), theirs=[a_round(wrong=1, fairness=0.5), Round("hang", "no end")])
    again = Results.from_json(run.as_json())
    assert again == run
    assert json.loads(run.as_json())["summary"][1]["damage"] == {"wrong rows": 1, "rounds that hung": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no results"),
        ("[1]", "no results"),
        pytest.param("[" * 100_000, "no results", id="deep"),
        ('{"schema": "pidpool-bench/0"}', "layout 'pidpool-bench/0'"),
        ('{"schema": "pidpool-bench/1"}', "damaged"),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str, why: str) -> None:
    with pytest.raises(ResultsError, match=why):
        Results.from_json(text)


DAMAGE: list[tuple[list[str | int], object, str]] = [
    (["rounds"], GONE, "it has no 'rounds'"),
    (["versions"], [1], "versions is [1], and not an object"),
    (["versions"], {"python": 3}, "versions.python is 3, and not a text"),
    (["versions"], {"\x1b[31m": "3"}, "and not printable"),
    (["interrupted"], 1, "interrupted is 1, and not true or false"),
    (["machine"], "x", "machine is 'x', and not an object"),
    (["machine", "cores"], 0, "machine.cores is 0, and not a whole number, 1 or more"),
    (["settings", "pools"], [], "settings.pools is [], and not a list of one text at least"),
    (["settings", "pools"], "ours", "settings.pools is 'ours', and not a list"),
    (["settings", "pools", 0], "\x1b[31mours", "settings.pools[0] is '\\x1b[31mours', and not printable"),
    (["settings", "load"], None, "settings.load is None, and not an object"),
    (["settings", "load", "duration"], None, "settings.load.duration is None, and not a number"),
    (["settings", "load", "threads"], True, "settings.load.threads is True, and not a whole number"),
    (["rounds", 1], None, "rounds[1] is None, and not an object"),
    (["rounds", 1, "pool"], "nobody's", 'rounds[1].pool is "nobody\'s", and not one of ours'),
    (["rounds", 1, "outcome"], "fine", "rounds[1].outcome is 'fine', and not one of done, "),
    (["rounds", 1, "seconds"], "1.0", "rounds[1].seconds is '1.0', and not a number"),
    (["rounds", 1, "seconds"], 0, "rounds[1].seconds is 0, and not a number above 0"),
    (["rounds", 1, "seconds"], -1.0, "rounds[1].seconds is -1.0, and not a number, 0 or more"),
    (["rounds", 1, "seconds"], math.nan, "rounds[1].seconds is nan, and not a number, 0 or more"),
    (["rounds", 1, "seconds"], math.inf, "rounds[1].seconds is inf, and not a number, 0 or more"),
    (["rounds", 1, "seconds"], 10**400, "and not a number, 0 or more"),
    (["rounds", 1, "percentiles"], GONE, "rounds[1] has no 'percentiles'"),
    (["rounds", 1, "percentiles"], [], "rounds[1].percentiles has 0 items, and not 101"),
    (["rounds", 1, "percentiles"], [1.0] * 100, "rounds[1].percentiles has 100 items, and not 101"),
    (["rounds", 1, "percentiles", 99], "x", "rounds[1].percentiles[99] is 'x', and not a number"),
    (["rounds", 1, "wrong"], -1, "rounds[1].wrong is -1, and not a whole number, 0 or more"),
    (["rounds", 1, "wrong"], math.nan, "rounds[1].wrong is nan, and not a whole number, 0 or more"),
    (["rounds", 1, "detail"], None, "rounds[1].detail is None, and not a text"),
]


@pytest.mark.parametrize(("path", "value", "says"), DAMAGE, ids=[says for *_, says in DAMAGE])
def test_a_file_that_somebody_has_edited_is_refused_with_the_place(
    path: list[str | int], value: object, says: str
) -> None:
    content = json.loads(results(ours=steady(1.0)).as_json())
    Results.from_json(json.dumps(content))  # It was in order.
    place = content
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(ResultsError, match="it is damaged: ") as refusal:
        Results.from_json(json.dumps(content))
    assert says in str(refusal.value)


def test_a_condition_is_met_by_a_significant_change_for_the_worse_alone() -> None:
    before = results(ours=steady(1.0))
    condition = (Condition.parse("p99:+10%"),)
    for seconds, is_too_much in ((1.2, True), (1.05, False), (0.5, False)):
        comparison = Comparison.of(before, results(ours=steady(seconds)))
        assert bool(comparison.offences(condition)) is is_too_much, seconds
    few = Comparison.of(results(ours=steady(1.0)[:2]), results(ours=steady(1.2)[:2]))
    assert few.offences(condition) == []


def test_new_damage_is_too_much_under_any_condition() -> None:
    before, after = results(ours=steady(1.0)), results(ours=[a_round(0.1, wrong=2)])
    assert Comparison.of(before, after).offences((Condition.parse("p50:+10%"),)) == [
        "query, ours: 2 wrong rows, and none before"
    ]
    assert Comparison.of(after, after).offences((Condition.parse("p50:+10%"),)) == []


@pytest.mark.parametrize("mine", [None, [], [Round("skipped", "not here")]], ids=["gone", "no turn", "skipped"])
def test_what_is_not_measured_any_more_is_named_and_fails_under_any_condition(mine: list[Round] | None) -> None:
    both, one = results(ours=steady(1.0), mine=steady(1.0)), results(ours=steady(1.0))
    after = one if mine is None else results(ours=steady(1.0), mine=mine)
    comparison = Comparison.of(both, after)
    assert comparison.missing == ("query, mine: only the first file has measured it",)
    assert comparison.offences((Condition.parse("p50:+10%"),)) == list(comparison.missing)
    assert comparison.offences(()) == []


def test_what_is_measured_for_the_first_time_is_named_and_fails_nothing() -> None:
    comparison = Comparison.of(results(ours=steady(1.0)), results(ours=steady(1.0), mine=steady(1.0)))
    assert comparison.added == ("query, mine: only the second file has measured it",)
    assert comparison.offences((Condition.parse("p50:+10%"),)) == []


def test_a_clock_too_coarse_for_single_operations_breaks_no_comparison() -> None:
    zero = [a_round(percentiles=(0.0,) * 101)] * 8
    assert Comparison.of(results(ours=zero), results(ours=zero)).summary().startswith("None of 3 figures")


@pytest.mark.parametrize("text", ["p99", "p99:10%", "p98:+10%", "p99:+10", "p99:-10%", f"p99:+{'9' * 400}%", ""])
def test_a_condition_that_cannot_be_understood_says_how_one_reads(text: str) -> None:
    with pytest.raises(ConditionError, match=r"such as p99:\+10%"):
        Condition.parse(text)


def test_the_chart_is_xml_has_both_themes_and_says_everything_in_words() -> None:
    run = results(ours=steady(0.3), theirs=[a_round(wrong=1)], broken=[Round("error", "<&>")])
    content = of_results(run)
    root = ET.fromstring(content)  # noqa: S314 - our own
    words = " ".join("".join(element.itertext()) for element in root)
    for expected in ("query", "ours", "300", "ms a query", "1 wrong row", "1 round that failed", "8 rounds of 0.5 s"):
        assert expected in words
    assert "prefers-color-scheme: dark" in content


def test_bars_are_as_long_as_their_values_and_stay_inside() -> None:
    panel = Panel("a", "s", (Bar("x", Spread(1, 1, 1)), Bar("y", Spread(2, 1.5, 2.5)), Bar("n" * 99, None)), limit=2.2)
    root = ET.fromstring(draw("t", "s", [panel]))  # noqa: S314 - our own
    widths = [float(bar.attrib["width"]) for bar in root.findall(".//{*}rect") if bar.attrib["class"] == "other"]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    width = float(root.attrib["width"])
    assert all(0 <= float(element.attrib.get("x", 0)) < width for element in root.iter())


def test_a_comparison_says_what_the_changes_come_to_and_what_else_was_different() -> None:
    before, after = results(ours=steady(1.0)), results(ours=steady(1.5))
    after.settings = replace(after.settings, load=Load(duration=2.0), versions={"pidpool": "2", "python": "3.13"})
    comparison = Comparison.of(before, after)
    assert comparison.summary().startswith("Of 3 figures 3 became worse and 0 better")
    assert comparison.differences == (
        "sqlalchemy was 2.1, and is none",
        "python was 3.11, and is 3.13",
        "kernel was Linux 6, and is none",
        "duration was 0.5, and is 2.0",
    )
    same = Comparison.of(before, before)
    assert (same.summary(), same.differences) == ("None of 3 figures has changed significantly.", ())
