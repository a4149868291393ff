"""Planning a batch: the groups that were claimed become one circuit for an executor.

Decides which blocks of which stored values enter the circuit, where each result comes out, and which computations fail
by themselves. It must not know stores, executors nor time. Pure, apart from a cache of circuits by word graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.circuits.merge import merge
from coproc.circuits.strategy import Strategy
from coproc.program.lowering import DEFAULT_SETTINGS, LoweredGraph, LoweringSettings, RandomInput, lower
from coproc.program.wordgraph import WordGraph, name_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit
    from coproc.errors import IrrecoverableError
    from coproc.program.computation import Computation
    from coproc.program.types import Handle

PLAN_VERSION: Final = 3
"""Version of everything between computations and circuits: results that carry the same number are bit-identical."""

CACHED_GRAPHS: Final = 1024


@dataclass(frozen=True, slots=True)
class Lanes:
    """Choose a strategy for every group, by how full the executor is.

    A round of a batch takes as long as its bootstraps take on ``count`` lanes. Where rounds leave lanes empty, circuits
    of fewer rounds end sooner although they have more bootstraps.
    """

    count: int

    def share(self, jobs: int) -> Lanes:
        """Return what is left for each of so many jobs whose levels run together."""
        return Lanes(max(1, self.count // jobs))


@dataclass(frozen=True, slots=True)
class GroupGraph:
    """One group to plan."""

    group_id: int
    computations: tuple[Computation, ...]
    """Checked, producers before consumers."""
    wanted: frozenset[Handle]
    """Outputs to materialise."""
    clear: Mapping[Handle, int]
    """Inputs whose value is public, because their stored ciphertext is trivial."""


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """Where one input wire of the circuit comes from."""

    handle: Handle
    block: int
    """Which block of the stored value, least significant first."""


@dataclass(frozen=True, slots=True)
class PlannedRandom:
    """An input wire that is made from a seed and the key id (``coproc.tfhe.oblivious``)."""

    seed: bytes
    block: int
    """Which of the seed's ciphertexts."""


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    """Where one result comes out."""

    group_id: int
    handle: Handle
    first: int
    """Index of its first block among the circuit's outputs."""
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A batch, ready to run."""

    circuit: Circuit
    inputs: tuple[PlannedInput | PlannedRandom, ...]
    """One for every input wire of the circuit."""
    outputs: tuple[PlannedOutput, ...]
    failures: Mapping[Handle, IrrecoverableError]
    """Computations that can never succeed. What depends on them has no output, and is not listed."""


def plan(
    groups: Sequence[GroupGraph], strategy: Strategy | Lanes, settings: LoweringSettings = DEFAULT_SETTINGS
) -> Plan:
    """Lower groups and merge their circuits level by level."""
    circuits: list[Circuit] = []
    inputs: list[PlannedInput | PlannedRandom] = []
    outputs: list[PlannedOutput] = []
    failures: dict[Handle, IrrecoverableError] = {}
    first = 0
    graphs = [
        name_values(
            group.computations, [item.output for item in group.computations if item.output in group.wanted], group.clear
        )
        for group in groups
    ]
    if isinstance(strategy, Lanes):
        chosen = choose([named.graph for named in graphs], strategy.count, settings)
    else:
        chosen = [lower_cached(named.graph, strategy, settings) for named in graphs]
    for group, named, lowered in zip(groups, graphs, chosen, strict=True):
        circuits.append(lowered.circuit)
        inputs += [
            PlannedRandom(named.seeds[source.seed], source.block)
            if isinstance(source, RandomInput)
            else PlannedInput(named.handles[source.number], source.block)
            for source in lowered.inputs
        ]
        for result in lowered.outputs:
            handle = named.handles[result.number]
            outputs.append(PlannedOutput(group.group_id, handle, first + result.first, result.blocks))
        failures |= {named.handles[number]: error for number, error in lowered.failures.items()}
        first += lowered.circuit.outputs.count
    return Plan(merge(circuits), tuple(inputs), tuple(outputs), failures)


def choose(graphs: Sequence[WordGraph], lanes: int, settings: LoweringSettings) -> list[LoweredGraph]:
    """Lower graphs for so many lanes, see ``shorten``."""
    chosen = [lower_cached(graph, Strategy.THROUGHPUT, settings) for graph in graphs]

    def shorter(index: int) -> list[int]:
        return _widths(lower_cached(graphs[index], Strategy.LATENCY, settings))

    for index in shorten([_widths(lowered) for lowered in chosen], shorter, lanes):
        chosen[index] = lower_cached(graphs[index], Strategy.LATENCY, settings)
    return chosen


def shorten(fewest: Sequence[Sequence[int]], shorter: Callable[[int], Sequence[int]], lanes: int) -> list[int]:
    """Start with the fewest bootstraps; give the deepest groups fewer rounds for as long as the batch ends sooner.

    Args:
        fewest: bootstraps of every group level by level, by the strategy that has the fewest.
        shorter: those of one group by the strategy that has fewer levels.
        lanes: bootstraps that run at the same time.

    Returns:
        The groups that get fewer levels.
    """
    changed: list[int] = []
    depth = max(map(len, fewest), default=0)
    widths = np.zeros(depth, dtype=np.int64)
    for own in fewest:
        widths[: len(own)] += np.array(own, dtype=np.int64)
    for index in sorted(range(len(fewest)), key=lambda index: -len(fewest[index])):
        if -(-int(widths.sum()) // lanes) == _rounds(widths, lanes):
            break  # every lane is full already
        other = shorter(index)
        if len(other) > depth:
            continue
        instead = widths.copy()
        instead[: len(fewest[index])] -= np.array(fewest[index], dtype=np.int64)
        instead[: len(other)] += np.array(other, dtype=np.int64)
        if _rounds(instead, lanes) < _rounds(widths, lanes):
            widths = instead
            changed.append(index)
    return changed


def _widths(lowered: LoweredGraph) -> list[int]:
    """Bootstraps by level."""
    return [level.bootstraps for level in lowered.circuit.levels]


def _rounds(widths: NDArray[np.int64], lanes: int) -> int:
    """Bootstraps that follow one another on a lane."""
    return int((-(-widths // lanes)).sum())


@lru_cache(maxsize=CACHED_GRAPHS)
def lower_cached(graph: WordGraph, strategy: Strategy, settings: LoweringSettings = DEFAULT_SETTINGS) -> LoweredGraph:
    """Lower a graph, or find the circuit of an equal one."""
    return lower(graph, strategy, settings)
