"""The comparison with TFHE-rs does the same work on both sides, and says so if a result is wrong.

What needs the peer itself runs where somebody has built it (``make bench-peers``, ``make count-peers``: Rust).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from benchmarks.peers.cases import BootstrapCase, CircuitCase, all_cases, operation_cases, transfer_cases
from benchmarks.peers.counts import BINARY, OTHERS, count
from benchmarks.peers.ours import Ours
from benchmarks.peers.protocol import COUNTING, MEASURING, Peer, Work
from benchmarks.peers.report import width_table
from benchmarks.peers.run import RATIO, Spent, Turns, main, rounds_of
from coproc.cli.measuring import figure, new_record, read_record
from coproc.program.catalogue import TFHE_RS
from coproc.tfhe.parameters import TOY_2_2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coproc.cli.measuring import Record

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
CASES = [*operation_cases(8, "latency"), *operation_cases(8, "throughput"), *transfer_cases()]


@pytest.fixture(scope="module")
def ours() -> Ours:
    return Ours(TOY_2_2, [2])


@pytest.mark.parametrize("case", [case for case in CASES if case.has_expected], ids=lambda case: case.label)
def test_our_side_gives_what_plain_integers_give(ours: Ours, case: CircuitCase) -> None:
    operands = case.operands(3)
    if case.way == "latency":
        job, used = ours.alone(case.graph, operands[0], 2), operands[:1]
    else:
        job = ours.many(case.graph, operands, 2, 300)
        used = [operands[copy % 3] for copy in range(job.case.copies)]
    assert [values[::-1] if case.swaps_results else values for values in job.values()] == [
        case.expected(values) for values in used
    ]
    assert job.run() > 0


def test_every_operation_that_takes_bootstraps_is_compared_and_the_telling_ones_come_first() -> None:
    cases = all_cases(2)
    labels = [case.label for case in cases]
    assert len(set(labels)) == len(labels) == 5 + 6 + 2 * 6 * (len(TFHE_RS) - 1)
    assert labels[:6] == [
        "KS+PBS, batch 1, 1 thread",
        "KS+PBS, batch 4, 1 thread",
        "KS+PBS, batch 16, 1 thread",
        "KS+PBS, batch 64, 1 thread",
        "KS+PBS, batch 128, 2 threads",
        "transfer whitepaper, throughput",
    ]
    first = [case for case in cases if isinstance(case, CircuitCase) and case.type][: len(TFHE_RS) - 1]
    assert {(case.type, case.way) for case in first} == {("euint64", "throughput")}


def test_divisors_are_never_zero() -> None:
    (division,) = [case for case in operation_cases(8, "latency") if case.name == "div"]
    assert all(values[1] % 2 for values in division.operands(300))


def test_sides_begin_by_turns_and_ratios_are_those_of_rounds() -> None:
    log: list[str] = []

    def side(name: str, seconds: Iterator[float]) -> Spent:
        log.append(name)
        return Spent(next(seconds), 1.0 + (name == "peer"))

    own, other = iter([1.0, 2.0, 3.0]), iter([2.0, 8.0, 18.0])
    measured = rounds_of(Turns("x", lambda: side("own", own), lambda: side("peer", other)), 3)
    assert log == ["own", "peer", "peer", "own", "own", "peer"]
    *_, cpu, ratio = measured.figures()
    assert (cpu.name, cpu.median) == ("x, ratio of CPU time", 2)
    assert (ratio.name, ratio.median, ratio.low, ratio.high) == ("x, ratio", 4, 3, 5)


def test_widths_are_put_side_by_side() -> None:
    def taken(label: str, ratio: float) -> Record:
        return new_record("peers", {}, [figure(f"{label}, ratio of CPU time", "times", [ratio])])

    records = [taken("add 64, throughput", 1.0), taken("add 64, throughput", 8.25), taken("add 8, latency", 4.5)]
    records += [taken("mul 8, throughput", 7.0), taken("KS+PBS, batch 64, 1 thread", 9.0)]
    assert width_table(records).splitlines() == [
        "| many, alone | 8 | 64 |",
        "|---|---|---|",
        "| add | -, 4.5 | 8.2, - |",
        "| mul | 7.0, - | -, - |",
    ]


def test_a_peer_that_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="make bench-peers builds it"):
        Peer(tmp_path / "nothing", "toy")


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    if not MEASURING.exists():
        pytest.skip("native TFHE-rs is not built: make bench-peers (needs Rust)")
    with Peer(MEASURING, "toy") as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_the_peer_gives_what_plain_integers_give(peer: Peer, case: CircuitCase) -> None:
    operands = case.operands(2)
    answer = peer.ask(Work(case.name, case.type, operands, 2))
    assert len(answer.seconds) == 1
    if case.has_expected:
        assert list(answer.values) == [case.expected(values) for values in operands]


def test_the_peer_bootstraps(peer: Peer) -> None:
    answer = peer.ask(Work("bootstrap", "", [()] * 5, 1, seconds=0.01))
    assert list(answer.values) == [[1], [2], [3], [0], [1]]
    assert BootstrapCase(5, 1).label == "KS+PBS, batch 5, 1 thread"


@pytest.mark.usefixtures("peer")
def test_a_comparison_is_recorded(tmp_path: Path) -> None:
    short = ["--toy", "--minutes", "60", "--rounds", "1", "--turn-seconds", "0.01", "--results", str(tmp_path)]
    chosen = ["--only", "batch 16", "--only", "whitepaper"]
    ended = CliRunner().invoke(main, [*short, *chosen], catch_exceptions=False)
    assert ended.exit_code == 0
    picture, path = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert picture.suffix == ".svg"
    record = read_record(path)
    assert [item.name for item in record.figures if item.name.endswith(f", {RATIO}")] == [
        "KS+PBS, batch 16, 1 thread, ratio",
        "transfer whitepaper, throughput, ratio",
        "transfer whitepaper, latency, ratio",
    ]


@pytest.mark.skipif(not COUNTING.exists(), reason="TFHE-rs's counter is not built: make count-peers (needs Rust)")
def test_the_peer_counts_as_recorded() -> None:
    recorded = json.loads((RESULTS / "tfhe-rs-counts.json").read_text())["2"]["euint8"]
    with Peer(COUNTING, "toy") as counting:
        for name in (*BINARY, *OTHERS):
            found = count(counting, name, "euint8", 2, random.Random(1))
            assert found == recorded[name]["encrypted"], name
