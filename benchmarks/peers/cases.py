"""What is compared, on which values, and in which order of importance.

Decides the cases: bootstraps, the three transfers that TFHE-rs measures, every operation of the table. Pure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from coproc.program.catalogue import TFHE_RS, WIDTHS, operation_graph, transfer, transfer_by_product
from coproc.program.meaning import evaluate_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.program.wordgraph import WordGraph

Way = Literal["latency", "throughput"]

FREE: Final = {"not"}
"""Takes no bootstrap on either side."""
RANDOM: Final = {"rand"}
"""Gives what neither side can foresee."""
DIVISIONS: Final = {"div", "rem"}


@dataclass(frozen=True, slots=True)
class BootstrapCase:
    """A batch of independent keyswitches with bootstraps."""

    batch: int
    threads: int

    @property
    def label(self) -> str:
        """As records and tables name it."""
        return f"KS+PBS, batch {self.batch}, {self.threads} thread{'' if self.threads == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class CircuitCase:
    """An operation or a transfer, one of them or many."""

    name: str
    """For the peer."""
    graph: WordGraph
    type: str
    """For the peer; empty for transfers."""
    way: Way
    bootstraps: int
    """Of the peer, roughly; to know how long it will take."""
    swaps_results: bool = False
    """The peer gives its two results in the other order."""

    @property
    def label(self) -> str:
        """As records and tables name it."""
        if not self.type:
            return f"{self.name.replace('_', ' ', 1)}, {self.way}"
        return f"{self.name} {self.type.removeprefix('euint')}, {self.way}"

    @property
    def has_expected(self) -> bool:
        """Whether results can be foreseen."""
        return self.name not in RANDOM

    def operands(self, count: int, seed: int = 0) -> list[list[int]]:
        """Draw operands of ``count`` instances; no divisor is zero."""
        rng = random.Random(f"{self.label} {seed}")  # noqa: S311 - the same on every run
        drawn = [[rng.getrandbits(source.type.bits) for source in self.graph.inputs] for _ in range(count)]
        if self.name in DIVISIONS:
            for values in drawn:
                values[-1] |= 1
        return drawn

    def expected(self, operands: Sequence[int]) -> list[int]:
        """Compute the peer's results in plain integers, as unsigned numbers."""
        values = evaluate_graph(self.graph, operands)
        results = [values[number] % (1 << self.graph.type_of(number).bits) for number in self.graph.wanted]
        return results[::-1] if self.swaps_results else results


def bootstrap_cases(cores: int) -> list[BootstrapCase]:
    """Give batches on one thread and on all."""
    wide = [] if cores == 1 else [BootstrapCase(64 * cores, cores)]
    return [*(BootstrapCase(batch, 1) for batch in (1, 4, 16, 64)), *wide]


def transfer_cases() -> list[CircuitCase]:
    """Give the transfers of TFHE-rs's benchmark, which return both balances.

    coproc has no subtraction that also returns its borrow: it takes the comparison of the plain transfer from there by
    itself, so that the plain transfer is its counterpart of two flavours.
    """
    flavours = {"whitepaper": transfer(), "no_cmux": transfer_by_product(), "overflowing": transfer()}
    ways: tuple[Way, Way] = ("throughput", "latency")
    return [
        CircuitCase(f"transfer_{flavour}", replace(graph, wanted=graph.wanted[:2]), "", way, 260, swaps_results=True)
        for way in ways
        for flavour, graph in flavours.items()
    ]


def operation_cases(bits: int, way: Way) -> list[CircuitCase]:
    """Give every operation of the table that takes bootstraps."""
    place = [fhe_type.bits for fhe_type in WIDTHS].index(bits)
    return [
        CircuitCase(name, operation_graph(name, WIDTHS[place]), f"euint{bits}", way, counts[place][0])
        for name, counts in TFHE_RS.items()
        if name not in FREE
    ]


def all_cases(cores: int) -> list[BootstrapCase | CircuitCase]:
    """Give all, the most telling ones first: those that are left out for want of time are at the end."""
    ways: tuple[Way, Way] = ("throughput", "latency")
    operations: list[CircuitCase] = []
    for bits in (64, 8, 32, 16, 128, 256):
        for way in ways:
            operations += sorted(operation_cases(bits, way), key=lambda case: case.bootstraps)
    return [*bootstrap_cases(cores), *transfer_cases(), *operations]
