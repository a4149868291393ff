"""Every benchmark runs, briefly and with toy parameters, and measures what it says."""

from __future__ import annotations

import json
from typing import cast

import pytest
from click.testing import CliRunner

from coproc.circuits.evaluation import verify
from coproc.circuits.strategy import Strategy
from coproc.cli.bench import bench
from coproc.errors import InvalidInput
from coproc.program.catalogue import TFHE_RS
from coproc.program.lowering import lower
from coproc.program.operation_list import TYPE_KEYS, operation_examples, operation_names
from coproc.program.operations import RULES
from coproc.program.types import FheType


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
    chosen = ["--operation", "add", "--type", "8", "--type", "64", "--program", "transfer"]
    ended = CliRunner().invoke(bench, ["counts", *chosen, "--json"], catch_exceptions=False)
    counts = json.loads(ended.stdout)
    assert list(counts["programs"]) == ["transfer"]
    assert counts["programs"]["transfer"]["throughput"] == {"pbs": 112, "depth": 49}
    assert list(counts["ops"]["add"]) == ["8", "64"]
    assert counts["ops"]["add"]["64"]["throughput"] == {"pbs": 32, "depth": 32}


def counts(*arguments: str) -> dict[str, dict[str, dict[str, object]]]:
    ended = CliRunner().invoke(bench, ["counts", *arguments, "--json"], catch_exceptions=False)
    return cast("dict[str, dict[str, dict[str, object]]]", json.loads(ended.stdout))


def test_counts_have_the_shape_that_is_promised() -> None:
    found = counts("--operation", "add", "--operation", "mul_clear", "--program", "transfer", "--type", "64")
    assert found == {
        "ops": {
            "add": {
                "64": {
                    "throughput": {"pbs": 32, "depth": 32},
                    "latency": {"pbs": 64, "depth": 6},
                    "tfhe_rs": {"pbs": TFHE_RS["add"][3][0], "depth": TFHE_RS["add"][3][1]},
                }
            },
            "mul_clear": {"64": found["ops"]["mul_clear"]["64"]},
        },
        "programs": {
            "transfer": {
                "throughput": {"pbs": 112, "depth": 49},
                "latency": {"pbs": 181, "depth": 10},
                "tfhe_rs": found["programs"]["transfer"]["tfhe_rs"],
            }
        },
    }
    with pytest.raises(InvalidInput, match="nothing"):
        counts("--type", "nothing")


def test_counts_leave_no_operation_and_no_type_out() -> None:
    listed: dict[int, set[FheType]] = {}
    for name in operation_names():
        for key, graph in operation_examples(name).items():
            (step,) = graph.steps
            listed.setdefault(step.operation, set()).add(TYPE_KEYS[key])
    types_of = {operation: set(rule.types) for operation, rule in RULES.items()}
    assert listed == types_of
    assert set(TYPE_KEYS.values()) == set(FheType)


@pytest.mark.parametrize("key", ["1", "8", "int8", "512"])
def test_what_is_counted_computes_what_it_says(key: str) -> None:
    found = counts("--type", key, *(f"--operation={name}" for name in operation_names()))
    there = {name for name, costs in found["ops"].items() if key in costs}
    assert {"bit_and", "eq_clear", "if_then_else", "cast_to_bool", "trivial_encrypt"} <= there
    for name in there:
        lowered = lower(operation_examples(name)[key], Strategy.THROUGHPUT)
        verify(lowered.circuit)
        costs = cast("dict[str, dict[str, int]]", found["ops"][name][key])
        assert costs["throughput"] == {"pbs": lowered.circuit.bootstraps, "depth": lowered.circuit.depth}
