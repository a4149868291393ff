"""From compact lists that claimed groups read to the jobs that take them apart.

Decides which blocks of which lists are needed and where each value comes out. Pure and possibly slow, so that callers
run it on a thread; knows nothing of stores, executors nor tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from coproc.circuits.casting import BOOLEAN, casting_circuit
from coproc.errors import IrrecoverableError
from coproc.program.computation import Operation, Scalar
from coproc.program.types import handle_type
from coproc.scheduling.batch import kind_of
from coproc.scheduling.cache import Value
from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.compact_list import read_compact_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit
    from coproc.keyring import KeyFacts
    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.base import StoredCiphertext, WorkGroup
    from coproc.tfhe.compact_list import CompactList


class ListUnusable(IrrecoverableError):
    """A stored list does not hold what a computation asks of it."""

    rule = "LIST_UNUSABLE"


@dataclass(frozen=True, slots=True, eq=False)
class CastingBatch:
    """One job of casting."""

    circuit: Circuit
    inputs: NDArray[np.uint64]
    """Shape ``(C, dimension + 1)``, under the compact key, or under the compute key."""
    under_compact_key: bool
    outputs: tuple[tuple[Handle, int, int], ...]
    """Handle, first block among the circuit's outputs, and number of blocks."""

    def values(self, key_id: bytes, outputs: NDArray[np.uint64]) -> dict[Handle, Value]:
        """Read the job's outputs, shape ``(O, k*N+1)``."""
        return {
            handle: Value(key_id, outputs[first : first + blocks].copy(), None)
            for handle, first, blocks in self.outputs
        }


def castings_of(groups: Iterable[WorkGroup]) -> tuple[Computation, ...]:
    """List the inputs that groups take out of lists, each once."""
    found = {
        computation.output: computation
        for group in groups
        for computation in group.computations
        if computation.operation is Operation.VERIFY_INPUT
    }
    return tuple(found.values())


def prepare_castings(
    castings: Sequence[Computation], stored: Mapping[Handle, StoredCiphertext], facts: KeyFacts
) -> tuple[tuple[CastingBatch, ...], dict[Handle, IrrecoverableError]]:
    """Plan the castings of groups of one key.

    Args:
        castings: what ``castings_of`` found.
        stored: the lists by handle.
        facts: of the key.

    Returns:
        At most two jobs (lists under the compact key, and under the compute key), and by output why a value cannot be
        had.
    """
    errors: dict[Handle, IrrecoverableError] = {}
    lists: dict[Handle, CompactList] = {}
    wanted: dict[bool, list[tuple[Handle, CompactList, int]]] = {True: [], False: []}
    for computation in castings:
        try:
            source, index = _operands(computation)
            if source not in lists:
                lists[source] = read_stored_list(stored[source].data, facts)
            value = lists[source].values[index] if index < len(lists[source].values) else None
            if value is None or (value.kind, value.bits) != _type_of(computation.output):
                raise ListUnusable(f"value {index} of the list is not of the type that its handle says")
        except IrrecoverableError as error:
            errors[computation.output] = error
        else:
            found = lists[source]
            wanted[found.requires_casting].append((computation.output, found, index))
    return tuple(_job(items, under) for under, items in wanted.items() if items), errors


def _operands(computation: Computation) -> tuple[Handle, int]:
    """Read which value of which list a computation takes."""
    match computation.operands:
        case (source, Scalar() as index) if not isinstance(source, Scalar):
            return source, int.from_bytes(index.value, "big")
        case _:
            raise ListUnusable("an input is taken out of a list by its index")


def _type_of(handle: Handle) -> tuple[CiphertextKind, int]:
    fhe_type = handle_type(handle)
    return kind_of(fhe_type), fhe_type.bits


def read_stored_list(data: bytes, facts: KeyFacts) -> CompactList:
    """Read a list, proven or not, that is to be computed on under a key.

    Raises:
        WireError: it is none, or does not fit the key.
    """
    parameters = facts.parameters
    if facts.casting_dimension:
        parameters = replace(parameters, compact_lwe_dimension=facts.casting_dimension)
    return read_compact_list(data, parameters, accept_proven=True)


def _job(items: Sequence[tuple[Handle, CompactList, int]], under_compact_key: bool) -> CastingBatch:  # noqa: FBT001 - a field
    rows: list[NDArray[np.uint64]] = []
    sources: list[NDArray[np.int32]] = []
    tables: list[NDArray[np.int32]] = []
    outputs: list[tuple[Handle, int, int]] = []
    ciphertexts = blocks = 0
    for handle, found, number in items:
        value = found.values[number]
        block = np.arange(value.first_block, value.first_block + value.blocks, dtype=np.int32)
        ciphertext, odd = (block // 2, block % 2) if found.is_packed else (block, np.zeros_like(block))
        first, last = int(ciphertext[0]), int(ciphertext[-1])
        rows.append(found.ciphertexts[first : last + 1])
        sources.append(ciphertext - first + ciphertexts)
        tables.append(odd + (BOOLEAN if value.kind is CiphertextKind.BOOL else 0))
        outputs.append((handle, blocks, value.blocks))
        ciphertexts += last + 1 - first
        blocks += value.blocks
    circuit = casting_circuit(
        ciphertexts, np.concatenate(sources).astype(np.int32), np.concatenate(tables).astype(np.int32)
    )
    return CastingBatch(circuit, np.concatenate(rows), under_compact_key, tuple(outputs))
