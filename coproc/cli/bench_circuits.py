"""``coproc bench ops`` and ``coproc bench programs``: how long circuits take, and how many a second.

Decides the circuits: latency is one of them on an idle machine, with the circuit that the service would choose there;
throughput is as many of them in one job as fill the lanes, with the circuit of the fewest bootstraps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from coproc.cli.bench_counts import BITS, known
from coproc.cli.measuring import Figure, Record, figure, in_turn, new_record, rate, recorded
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coproc.circuits.circuit import Circuit
    from coproc.executors.base import Executor, PreparedKey
    from coproc.program.lowering import LoweredGraph
    from coproc.program.wordgraph import WordGraph

LANE_BATCH: Final = 16
"""Ciphertexts that a core works on at once when it is busy: levels should be so wide."""
WAYS: Final = ("latency", "throughput")


@dataclass(frozen=True, slots=True)
class Case:
    """A circuit to pass through."""

    lowered: LoweredGraph
    """One instance."""
    circuit: Circuit
    """All instances side by side."""
    copies: int


def latency_case(graph: WordGraph, lanes: int) -> Case:
    """Take the circuit that a lone request gets on ``lanes`` idle cores."""
    from coproc.program.lowering import DEFAULT_SETTINGS  # noqa: PLC0415 - heavy
    from coproc.program.planning import choose  # noqa: PLC0415 - heavy

    lowered = choose([graph], lanes, DEFAULT_SETTINGS)[0]
    return Case(lowered, lowered.circuit, 1)


def throughput_case(graph: WordGraph, lanes: int, most_bootstraps: int) -> Case:
    """Put so many instances side by side that levels fill the lanes, within a number of bootstraps.

    One instance at least for every core, whatever it takes.
    """
    from coproc.circuits.merge import merge  # noqa: PLC0415 - heavy
    from coproc.circuits.strategy import Strategy  # noqa: PLC0415 - heavy
    from coproc.program.planning import lower_cached  # noqa: PLC0415 - heavy

    lowered = lower_cached(graph, Strategy.THROUGHPUT)
    circuit = lowered.circuit
    each = max(1, circuit.bootstraps)
    filled = -(-LANE_BATCH * lanes * circuit.depth // each)
    copies = max(lanes, min(filled, most_bootstraps // each))
    return Case(lowered, merge([circuit] * copies), copies)


OPTIONS: Final = (
    click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), default=WAYS, show_default=True),
    click.option("--executor", default="cpu", show_default=True),
    click.option("--threads", default=0, show_default=True, help="0 takes all cores."),
    click.option("--repeats", default=3, show_default=True, help="Passes; the median is reported."),
    click.option(
        "--patience", default=30.0, show_default=True, help="Seconds that a case may take; long ones repeat less."
    ),
    click.option(
        "--most-bootstraps", default=5000, show_default=True, help="In one pass, unless one instance a core has more."
    ),
    click.option("--toy", is_flag=True, help="Insecure parameters."),
)


def of_circuits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all benchmarks of circuits have."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command("ops")
@click.option("--operation", "names", multiple=True, help="Default: all of `coproc bench counts`.")
@click.option("--bits", "widths", multiple=True, type=click.Choice(BITS), default=("64",), show_default=True)
@of_circuits
@recorded
def bench_ops(
    names: tuple[str, ...],
    widths: tuple[str, ...],
    ways: tuple[str, ...],
    executor: str,
    threads: int,
    repeats: int,
    patience: float,
    most_bootstraps: int,
    *,
    toy: bool,
) -> Record:
    """Measure every operation: milliseconds for one alone, and how many a second when there are many."""
    from coproc.program.catalogue import TFHE_RS, operation_graph  # noqa: PLC0415 - builds programs
    from coproc.program.catalogue import WIDTHS as TYPES  # noqa: PLC0415

    for name in names:
        known(name, TFHE_RS, "operation")
    types = {str(fhe_type.bits): fhe_type for fhe_type in TYPES}
    graphs = {
        f"{name} {bits}": operation_graph(name, types[bits]) for name in names or tuple(TFHE_RS) for bits in widths
    }
    bench = _Bench(executor, threads, toy=toy)
    figures = bench.measure(graphs, ways, repeats, patience, most_bootstraps)
    return new_record("ops", bench.settings | {"bits": [int(bits) for bits in widths]}, figures)


@click.command("programs")
@click.option("--program", "names", multiple=True, help="Default: all of `coproc bench counts`.")
@of_circuits
@recorded
def bench_programs(
    names: tuple[str, ...],
    ways: tuple[str, ...],
    executor: str,
    threads: int,
    repeats: int,
    patience: float,
    most_bootstraps: int,
    *,
    toy: bool,
) -> Record:
    """Measure whole programs of contracts: the transfer, auctions, votes and others."""
    from coproc.program.catalogue import PROGRAMS  # noqa: PLC0415 - builds programs

    graphs = {name: known(name, PROGRAMS, "program").graph for name in names or tuple(PROGRAMS)}
    bench = _Bench(executor, threads, toy=toy)
    return new_record("programs", bench.settings, bench.measure(graphs, ways, repeats, patience, most_bootstraps))


class _Bench:
    """An executor with a key, and circuits on it."""

    def __init__(self, executor: str, threads: int, *, toy: bool) -> None:
        import numpy as np  # noqa: PLC0415 - heavy

        from coproc.executors import create_executor  # noqa: PLC0415 - heavy
        from coproc.executors.bench import random_key  # noqa: PLC0415 - heavy

        self._lanes = threads or len(os.sched_getaffinity(0))
        self._executor: Executor = create_executor(executor, threads=self._lanes)
        key = random_key(TOY_2_2 if toy else V1_5_2_2, np.random.default_rng(0))
        self._prepared: PreparedKey = self._executor.prepare(key)
        parameters = "toy" if toy else "V1_5 2_2"
        self.settings: dict[str, object] = {"parameters": parameters, "executor": executor, "threads": self._lanes}

    def measure(
        self,
        graphs: Mapping[str, WordGraph],
        ways: tuple[str, ...],
        repeats: int,
        patience: float,
        most_bootstraps: int,
    ) -> list[Figure]:
        from coproc.executors.bench import CircuitPasses  # noqa: PLC0415 - heavy

        cases: dict[str, Case] = {}
        for name, graph in graphs.items():
            if "latency" in ways:
                cases[f"{name}, latency"] = latency_case(graph, self._lanes)
            if "throughput" in ways:
                cases[f"{name}, throughput"] = throughput_case(graph, self._lanes, most_bootstraps)
        runs: dict[str, Callable[[], float]] = {
            name: CircuitPasses(self._executor, self._prepared, case.circuit).run for name, case in cases.items()
        }
        figures: list[Figure] = []
        for name, seconds in in_turn(runs, repeats, patience).items():
            if name.endswith("latency"):
                figures.append(figure(name, "ms", [1e3 * each for each in seconds]))
            else:
                figures.append(rate(name, seconds, cases[name].copies))
        return figures
