"""Planning a batch: the groups that were claimed become one circuit for an executor.

Decides which blocks of which stored values enter the circuit, where each result comes out, and which computations fail
by themselves. It must not know stores, executors nor time. Pure, apart from a cache of circuits by word graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from coproc.circuits.merge import merge
from coproc.program.lowering import DEFAULT_SETTINGS, LoweredGraph, LoweringSettings, RandomInput, lower
from coproc.program.wordgraph import WordGraph, name_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.circuits.circuit import Circuit
    from coproc.circuits.strategy import Strategy
    from coproc.errors import IrrecoverableError
    from coproc.program.computation import Computation
    from coproc.program.types import Handle

PLAN_VERSION: Final = 1
"""Version of everything between computations and circuits: results that carry the same number are bit-identical."""

CACHED_GRAPHS: Final = 1024


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


def plan(groups: Sequence[GroupGraph], strategy: Strategy, settings: LoweringSettings = DEFAULT_SETTINGS) -> Plan:
    """Lower groups and merge their circuits level by level."""
    circuits: list[Circuit] = []
    inputs: list[PlannedInput | PlannedRandom] = []
    outputs: list[PlannedOutput] = []
    failures: dict[Handle, IrrecoverableError] = {}
    first = 0
    for group in groups:
        wanted = [item.output for item in group.computations if item.output in group.wanted]
        named = name_values(group.computations, wanted, group.clear)
        lowered = lower_cached(named.graph, strategy, settings)
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


@lru_cache(maxsize=CACHED_GRAPHS)
def lower_cached(graph: WordGraph, strategy: Strategy, settings: LoweringSettings = DEFAULT_SETTINGS) -> LoweredGraph:
    """Lower a graph, or find the circuit of an equal one."""
    return lower(graph, strategy, settings)
