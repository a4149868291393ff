"""Every benchmark runs, briefly and with toy parameters, and measures what it says."""

from __future__ import annotations

import json
from typing import cast

import pytest
from click.testing import CliRunner

from coproc.cli.bench import bench
from coproc.errors import InvalidInput


def run(*arguments: str) -> dict[str, dict[str, object]]:
    """Return the figures of a benchmark by name."""
    ended = CliRunner().invoke(bench, [*arguments, "--toy", "--json"], catch_exceptions=False)
    record = json.loads(ended.stdout)
    assert record["bench"] == arguments[0]
    assert record["settings"]["parameters"] == "toy"
    return {figure["name"]: figure for figure in record["figures"]}


def test_bootstraps_over_parts_batches_and_threads() -> None:
    figures = run("pbs", "--batch", "1", "--batch", "3", "--threads", "1", "--threads", "2", "--repeats", "2")
    assert len(figures) == 12
    medians = [cast("float", figure["median"]) for figure in figures.values()]
    assert all(median > 0 for median in medians)
    assert figures["cpu, keyswitch, batch 3, 2 threads"]["unit"] == "per second"


def test_executors_are_compared() -> None:
    only_both = ("--part", "both", "--batch", "2", "--threads", "1", "--repeats", "1")
    figures = run("pbs", "--executor", "cpu", "--executor", "reference", *only_both)
    assert list(figures) == ["cpu, both, batch 2, 1 thread", "reference, both, batch 2, 1 thread"]


def test_operations_alone_and_many() -> None:
    figures = run("ops", "--operation", "add", "--operation", "rand", "--bits", "8", "--bits", "16", "--repeats", "1")
    assert {name: figure["unit"] for name, figure in figures.items()} == {
        "add 8, latency": "ms",
        "add 8, throughput": "per second",
        "add 16, latency": "ms",
        "add 16, throughput": "per second",
        "rand 8, latency": "ms",
        "rand 8, throughput": "per second",
        "rand 16, latency": "ms",
        "rand 16, throughput": "per second",
    }


def test_programs() -> None:
    figures = run("programs", "--program", "transfer", "--repeats", "1", "--most-bootstraps", "300")
    assert list(figures) == ["transfer, latency", "transfer, throughput"]


@pytest.mark.parametrize(("command", "option"), [("ops", "--operation"), ("programs", "--program")])
def test_what_does_not_exist_is_named(command: str, option: str) -> None:
    with pytest.raises(InvalidInput, match="nothing"):
        run(command, option, "nothing")


def test_planning() -> None:
    assert [figure["unit"] for figure in run("planning", "--repeats", "1").values()] == ["ms", "ms", "%"]


@pytest.mark.slow
def test_a_service() -> None:
    figures = run("service", "--rounds", "1", "--transfers", "3", "--clients", "2", "--lone", "2")
    medians = {name: cast("float", figure["median"]) for name, figure in figures.items()}
    assert all(median > 0 for name, median in medians.items() if "without" not in name)
    assert medians["CPU time inside bootstraps"] <= 100
    whole, added = (
        medians[name]
        for name in ("lone bit_and 8, submission to pushed result, p50", "the same without its bootstraps, p50")
    )
    assert added < whole
    assert medians["submission under load, p50"] <= medians["submission under load, p99"]


def test_counts_do_not_depend_on_the_machine() -> None:
    chosen = ["--operation", "add", "--bits", "8", "--bits", "64", "--program", "transfer"]
    ended = CliRunner().invoke(bench, ["counts", *chosen, "--json"], catch_exceptions=False)
    counts = json.loads(ended.stdout)
    assert list(counts["programs"]) == ["transfer"]
    assert counts["programs"]["transfer"]["throughput"] == {"pbs": 112, "depth": 49}
    assert list(counts["ops"]["add"]) == ["8", "64"]
    assert counts["ops"]["add"]["64"]["throughput"] == {"pbs": 32, "depth": 32}
