"""How figures are taken, kept and compared, on made-up durations."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from coproc.cli.bench_compare import bench_compare, compare
from coproc.cli.measuring import Figure, Record, figure, in_turn, machine, new_record, rate, read_record, recorded
from coproc.cli.plots import draw
from coproc.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def passes(seconds: list[float], log: list[str], name: str) -> Callable[[], float]:
    rest = iter(seconds)

    def run() -> float:
        log.append(name)
        return next(rest)

    return run


def record(*figures: Figure, bench: str = "pbs") -> Record:
    return Record(bench, "2026-01-02T03:04:05+00:00", {"cpu": "one", "cores": 2}, {"threads": 2}, figures)


def test_cases_take_turns_and_the_first_pass_does_not_count() -> None:
    log: list[str] = []
    cases = {"a": passes([9, 1, 2], log, "a"), "b": passes([8, 3, 4], log, "b")}
    assert in_turn(cases, 2) == {"a": [1, 2], "b": [3, 4]}
    assert log == ["a", "b", "a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("first", "left"),
    [(1.0, [2.0, 2.0, 2.0]), (4.0, [2.0]), (6.0, [6.0]), (99.0, [99.0])],
    ids=["short: all passes", "long: fewer", "too long: the first counts", "longer than patience"],
)
def test_long_cases_have_fewer_passes(first: float, left: list[float]) -> None:
    assert in_turn({"a": passes([first, 2, 2, 2], [], "a")}, 3, patience=10) == {"a": left}


def test_nothing_is_measured_without_a_pass() -> None:
    with pytest.raises(InvalidInput, match="repeats"):
        in_turn({}, 0)
    with pytest.raises(InvalidInput, match="nothing was measured of x"):
        figure("x", "ms", [])


def test_a_figure_is_the_median_between_quartiles() -> None:
    taken = figure("x", "ms", [5, 1, 2, 4, 3])
    assert (taken.median, taken.low, taken.high, taken.passes) == (3, 2, 4, 5)
    assert rate("x", [0.5, 0.25, 1.0], count=2) == figure("x", "per second", [4, 8, 2], "higher")
    assert figure("x", "ms", [7]).high == 7


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = new_record("pbs", {"threads": 2}, [figure("x", "ms", [1, 2, 3])], {"more": [1]})
    path = written.write(tmp_path / "results")
    assert read_record(path) == written
    assert path.name.startswith("pbs-")
    assert written.machine == machine() | {"load": written.machine["load"]}


@pytest.mark.parametrize("text", ["", "[]", '{"bench": "pbs"}', '{"figures": [{"name": "x"}]}', '{"figures": 1}'])
def test_what_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="is no record of a benchmark"):
        read_record(path)


@pytest.mark.parametrize(
    ("unit", "better", "before", "after", "verdict"),
    [
        ("ms", "lower", [10, 10, 10], [12, 12, 12], "slower"),
        ("ms", "lower", [10, 10, 10], [8, 8, 8], "faster"),
        ("per second", "higher", [10, 10, 10], [8, 8, 8], "slower"),
        ("per second", "higher", [10, 10, 10], [12, 12, 12], "faster"),
        ("%", "same", [10, 10, 10], [12, 12, 12], "changed"),
        ("ms", "lower", [9, 10, 13], [10, 12, 14], "same"),  # the quartiles touch
        ("ms", "lower", [10, 10, 10], [10.1, 10.1, 10.1], "same"),  # within the tolerance
    ],
)
def test_a_difference_counts_beyond_the_spread(
    unit: str, better: str, before: list[float], after: list[float], verdict: str
) -> None:
    assert better in {"lower", "higher", "same"}
    old, new = (
        record(replace(figure("x", unit, values), better=better))  # type: ignore[arg-type]
        for values in (before, after)
    )
    found = compare(old, new)
    assert [item.verdict for item in found.differences] == [verdict]
    assert found.has_slower == (verdict == "slower")


def test_comparing_names_what_is_not_alike() -> None:
    old = record(figure("x", "ms", [1]), figure("gone", "ms", [1]))
    new = replace(record(figure("x", "ms", [1]), figure("new", "ms", [1])), machine={"cpu": "two", "cores": 2})
    found = compare(old, replace(new, settings={"threads": 1}))
    assert (found.only_before, found.only_after) == (["gone"], ["new"])
    assert found.warnings == ["cpu differs: one and two", "threads differs: 2 and 1"]


def test_the_status_says_whether_anything_got_slower(tmp_path: Path) -> None:
    fast, slow = (record(figure("x", "ms", [each] * 3)).write(tmp_path / str(each)) for each in (1.0, 2.0))
    other = record(figure("x", "ms", [1]), bench="ops").write(tmp_path)
    runner = CliRunner()
    slower = runner.invoke(bench_compare, [str(fast), str(slow)])
    assert slower.exit_code == 1
    assert "slower" in slower.output
    faster = runner.invoke(bench_compare, [str(slow), str(fast), "--json"])
    assert faster.exit_code == 0
    assert json.loads(faster.stdout)["differences"][0]["change"] == -0.5
    assert runner.invoke(bench_compare, [str(slow), str(slow)]).exit_code == 0
    assert "different benchmarks" in runner.invoke(bench_compare, [str(fast), str(other)]).output


def test_figures_are_drawn_by_unit(tmp_path: Path) -> None:
    figures = (rate("both, batch 16", [0.1, 0.2]), rate("both, batch 1", [10.0]), figure("alone", "ms", [3.0, 4.0]))
    picture = draw(record(*figures), tmp_path / "x.svg")
    assert picture.read_text().count('id="axes_') == 2
    with pytest.raises(click.ClickException, match="no figures"):
        draw(record(), tmp_path / "none.svg")


def test_drawing_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(click.ClickException, match="extra `plots`"):
        draw(record(figure("x", "ms", [1])), tmp_path / "x.svg")


def test_a_recorded_command_prints_writes_and_draws(tmp_path: Path) -> None:
    @click.command()
    @click.option("--threads", default=1)
    @recorded
    def bench(threads: int) -> Record:
        return new_record("made-up", {"threads": threads}, [figure("x", "ms", [1234.5, 1234.5])])

    runner = CliRunner()
    shown = runner.invoke(bench, ["--threads", "3"])
    assert "made-up: threads 3" in shown.output
    assert "1,234" in shown.output
    done = runner.invoke(bench, ["--json", "--results", str(tmp_path), "--plot"])
    assert json.loads(done.stdout)["figures"][0]["median"] == 1234.5
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".svg"]
    assert runner.invoke(bench, ["--plot"]).exit_code == 2
