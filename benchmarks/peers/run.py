"""``make bench-peers``: native TFHE-rs and coproc on the same work, by turns, on the same cores.

Decides how turns are taken: one side works while the other sleeps, the side that begins changes from round to round,
and a ratio is that of one round, so that what disturbs the machine for longer than a round disturbs both sides alike.
What does not fit the time is left out, and named.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks.peers.cases import BootstrapCase, CircuitCase, all_cases
from benchmarks.peers.ours import Ours
from benchmarks.peers.protocol import MEASURING, Answer, Peer, Work
from coproc.cli.measuring import Figure, Record, figure, new_record, number
from coproc.cli.plots import draw
from coproc.errors import FatalError
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PEER: Final = "TFHE-rs 1.5.1"
RATIO: Final = "ratio"
CPU_RATIO: Final = "ratio of CPU time"
LARGEST_SHARE: Final = 0.25
"""Of the time, for one case."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one instance took in a turn."""

    seconds: float
    cpu_seconds: float
    """Of all threads: hardly changes with what else a machine does."""


@dataclass(frozen=True, slots=True)
class Turns:
    """A case as both sides do it."""

    label: str
    ours: Callable[[], Spent]
    peer: Callable[[], Spent]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one instance took, round by round."""

    label: str
    ours: Sequence[Spent]
    peer: Sequence[Spent]

    def figures(self) -> list[Figure]:
        """Return rates of both sides, and in each round how many times as long, or as much CPU time, the peer took."""
        rounds = list(zip(self.ours, self.peer, strict=True))
        ratios = [theirs.seconds / own.seconds for own, theirs in rounds]
        cpu_ratios = [theirs.cpu_seconds / own.cpu_seconds for own, theirs in rounds]
        return [
            figure(f"{self.label}, coproc", "per second", [1 / each.seconds for each in self.ours], "higher"),
            figure(f"{self.label}, {PEER}", "per second", [1 / each.seconds for each in self.peer], "same"),
            figure(f"{self.label}, {CPU_RATIO}", "times", cpu_ratios, "higher"),
            figure(f"{self.label}, {RATIO}", "times", ratios, "higher"),
        ]


class Comparison:
    """Both sides, ready."""

    def __init__(self, peer: Peer, cores: int, parameters: str, turn_seconds: float, pass_bootstraps: int) -> None:
        """Make coproc's keys.

        A turn takes ``turn_seconds``, or one pass if that is longer. Where many instances are measured, coproc makes
        ``pass_bootstraps`` in a pass.
        """
        chosen = TOY_2_2 if parameters == "toy" else V1_5_2_2
        self._peer, self._cores, self._turn = peer, cores, turn_seconds
        self._pass_bootstraps = pass_bootstraps
        self._ours = Ours(chosen, sorted({1, cores}))
        # What a bootstrap takes on one thread, to know beforehand how long cases take; it warms both sides up, too.
        warm = self._bootstraps(BootstrapCase(16, 1))
        self._own_bootstrap, self._peer_bootstrap = (
            min(turn().seconds for _ in range(2)) for turn in (warm.ours, warm.peer)
        )

    def turns(self, case: BootstrapCase | CircuitCase) -> Turns:
        """Prepare a case; both sides' results are checked before anything is timed.

        Raises:
            FatalError: a side gives a wrong result.
        """
        return self._bootstraps(case) if isinstance(case, BootstrapCase) else self._circuits(case)

    def expected_seconds(self, case: BootstrapCase | CircuitCase) -> float:
        """Guess how long a round takes, preparing not counted."""
        if isinstance(case, BootstrapCase):
            return 2 * self._turn
        instances = 1 if case.way == "latency" else self._cores
        peer = case.bootstraps * instances * self._peer_bootstrap / self._cores
        own = max(case.bootstraps * instances / 2, 0 if case.way == "latency" else self._pass_bootstraps)
        return max(self._turn, peer) + max(self._turn, own * self._own_bootstrap / self._cores)

    def _bootstraps(self, case: BootstrapCase) -> Turns:
        passes = self._ours.bootstraps(case.batch, case.threads)
        work = Work("bootstrap", "", [()] * case.batch, case.threads, self._turn)

        def ours() -> Spent:
            return _spend(passes.both, self._turn, case.batch)

        def peer() -> Spent:
            return _spent(self._peer.ask(work), case.batch)

        return Turns(case.label, ours, peer)

    def _circuits(self, case: CircuitCase) -> Turns:
        is_alone = case.way == "latency"
        operands = case.operands(1 if is_alone else self._cores)
        if is_alone:
            job = self._ours.alone(case.graph, operands[0], self._cores)
        else:
            job = self._ours.many(case.graph, operands, self._cores, self._pass_bootstraps)
        work = Work(case.name, case.type, operands, self._cores, self._turn)
        expected = [case.expected(values) for values in operands] if case.has_expected else []
        if case.has_expected:
            found = job.values()
            own = [case.expected(operands[copy % len(operands)]) for copy in range(len(found))]
            _check(case, "coproc", [values[::-1] if case.swaps_results else values for values in found], own)

        def ours() -> Spent:
            return _spend(job.run, self._turn, job.case.copies)

        def peer() -> Spent:
            answer = self._peer.ask(work)
            if case.has_expected:
                _check(case, PEER, answer.values, expected)
            return _spent(answer, len(operands))

        return Turns(case.label, ours, peer)


def _check(case: CircuitCase, side: str, found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> None:
    if [list(values) for values in found] != [list(values) for values in expected]:
        raise FatalError(f"{side} gives a wrong result for {case.label}: {found}, expected {expected}")


def _spend(run: Callable[[], float], seconds: float, instances: int) -> Spent:
    """Make passes until so much time is over, one at least."""
    cpu = time.process_time()
    passes = [run()]
    while sum(passes) < seconds:
        passes.append(run())
    return Spent(median(passes) / instances, (time.process_time() - cpu) / len(passes) / instances)


def _spent(answer: Answer, instances: int) -> Spent:
    return Spent(median(answer.seconds) / instances, answer.cpu_seconds / len(answer.seconds) / instances)


def rounds_of(turns: Turns, rounds: int) -> Measured:
    """Take turns, each side first by turns."""
    ours: list[Spent] = []
    peer: list[Spent] = []
    for count in range(rounds):
        sides = [(ours, turns.ours), (peer, turns.peer)]
        for spent, turn in sides if count % 2 == 0 else reversed(sides):
            spent.append(turn())
    return Measured(turns.label, ours, peer)


def compare(
    comparison: Comparison, cores: int, minutes: float, rounds: int, only: Sequence[str] = ()
) -> tuple[list[Measured], list[str]]:
    """Measure what fits the time, in order of importance; returns the labels of what does not.

    ``only`` leaves out cases whose label contains none of its texts.
    """
    console = Console(stderr=True)
    ends = time.monotonic() + 60 * minutes
    measured: list[Measured] = []
    left_out: list[str] = []
    for case in all_cases(cores):
        if only and not any(text in case.label for text in only):
            continue
        # One round more stands for checking the results.
        left = ends - time.monotonic()
        most = min(left, 60 * minutes * LARGEST_SHARE)
        fits = int(most / comparison.expected_seconds(case)) - 1
        if fits < 1:
            left_out.append(case.label)
            continue
        measured.append(rounds_of(comparison.turns(case), min(rounds, fits)))
        ratio = measured[-1].figures()[-1]
        console.print(f"{case.label}: {ratio.median:.2f} times", highlight=False)
    return measured, left_out


def show(record: Record) -> None:
    """Print one line a case."""
    figures = {item.name: item for item in record.figures}
    table = Table(title=f"A second, and how many times as many as {PEER}, in turns on the same cores")
    for column in ("", "coproc", PEER, "ratio", "quartiles", "CPU time", "rounds"):
        table.add_column(column, justify="right" if column else "left")
    for name, ratio in figures.items():
        label, comma, what = name.rpartition(", ")
        if comma and what == RATIO:
            spread = f"{ratio.low:.2f} .. {ratio.high:.2f}" if ratio.passes > 1 else ""
            rates = (number(figures[f"{label}, {side}"].median) for side in ("coproc", PEER))
            cpu = f"{figures[f'{label}, {CPU_RATIO}'].median:.2f}"
            table.add_row(label, *rates, f"{ratio.median:.2f}", spread, cpu, str(ratio.passes))
    Console().print(table)


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="What does not fit is left out, and named.")
@click.option("--rounds", default=3, show_default=True, help="Of each case, where there is time.")
@click.option("--turn-seconds", default=0.7, show_default=True, help="Passes of a turn go on for so long.")
@click.option(
    "--pass-bootstraps", default=2500, show_default=True, help="Of coproc in a pass, where many instances are measured."
)
@click.option("--binary", type=click.Path(path_type=Path), default=MEASURING, help="The peer, as built by make.")
@click.option("--only", multiple=True, help="A part of the names of cases; repeat for more.")
@click.option("--core", "cores", multiple=True, type=int, help="To run on; default: all that this process may use.")
@click.option("--results", type=click.Path(path_type=Path, file_okay=False), default="benchmarks/results")
@click.option("--toy", is_flag=True, help="Insecure parameters, to try the script.")
def main(
    minutes: float,
    rounds: int,
    turn_seconds: float,
    pass_bootstraps: int,
    binary: Path,
    only: tuple[str, ...],
    cores: tuple[int, ...],
    results: Path,
    *,
    toy: bool,
) -> None:
    """Compare coproc with native TFHE-rs on this machine, and record the result."""
    os.sched_setaffinity(0, cores or os.sched_getaffinity(0))  # the peer inherits it
    count = len(os.sched_getaffinity(0))
    parameters = "toy" if toy else "v1_5"
    with Peer(binary, parameters) as peer:
        comparison = Comparison(peer, count, parameters, turn_seconds, pass_bootstraps)
        measured, left_out = compare(comparison, count, minutes, rounds, only)
        settings = {
            "parameters": "toy" if toy else "V1_5 2_2",
            "cores": count,
            "turn_seconds": turn_seconds,
            "pass_bootstraps": pass_bootstraps,
        }
        details = {"peer": peer.about, "left_out_for_want_of_time": left_out}
    record = new_record("peers", settings, [item for case in measured for item in case.figures()], details)
    show(record)
    if left_out:
        click.echo(f"{len(left_out)} cases did not fit {minutes:g} minutes: {', '.join(left_out)}")
    path = record.write(results)
    click.echo(f"recorded in {path}")
    ratios = replace(record, figures=[item for item in record.figures if item.name.endswith(f", {RATIO}")])
    click.echo(f"ratios are drawn in {draw(ratios, path.with_suffix('.svg'))}")


if __name__ == "__main__":
    main()
