"""From claimed groups to the inputs of one job, and from its outputs to what is stored.

Decides which computations of a batch can run at all and what is written down for those that cannot. Pure and possibly
slow, so that callers run it on a thread; knows nothing of stores, executors nor tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import IrrecoverableError
from coproc.program.computation import Operation
from coproc.program.lowering import DEFAULT_SETTINGS
from coproc.program.planning import GroupGraph, Plan, PlannedRandom, plan
from coproc.program.types import FheType, handle_type
from coproc.scheduling.cache import Value
from coproc.store.base import Failure, GroupOutcome, StoredCiphertext
from coproc.store.rules import failure_of, inherited
from coproc.tfhe.ciphertext import CiphertextKind, read_ciphertext, write_ciphertext
from coproc.tfhe.oblivious import oblivious_ciphertexts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from coproc.circuits.strategy import Strategy
    from coproc.keyring import KeyFacts
    from coproc.program.lowering import LoweringSettings
    from coproc.program.planning import Lanes
    from coproc.program.types import Handle
    from coproc.store.base import WorkGroup


PORTION_BYTES: Final = 16 << 20
"""Results of one transaction: with less the graph lock is taken more often, with more the first result waits longer."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedBatch:
    """A job and what will become of its groups."""

    groups: tuple[WorkGroup, ...]
    plan: Plan
    inputs: NDArray[np.uint64]
    """Shape ``(I, k*N+1)``."""
    failures: Mapping[int, Mapping[Handle, Failure]]
    """By group id: outputs that fail, dependants included."""
    cast: Mapping[Handle, Value] = field(default_factory=dict["Handle", Value])
    """What was taken out of lists for these groups."""


@dataclass(frozen=True, slots=True, eq=False)
class FinishedBatch:
    """What a job leaves behind."""

    outcomes: tuple[GroupOutcome, ...]
    values: Mapping[Handle, Value]
    """The results as blocks, for the cache."""


class PlanningDefect(IrrecoverableError):
    """Planning raised something that it should not: a defect of ours, which trying again would only repeat."""

    rule = "PLANNING_DEFECT"


class WrongKey(IrrecoverableError):
    """A computation reads a value under a key that is not its own."""

    rule = "WRONG_KEY"


def external_inputs(groups: Iterable[WorkGroup]) -> tuple[Handle, ...]:
    """Name the stored values that groups read, each once."""
    needed: dict[Handle, None] = {}
    for group in groups:
        produced = {computation.output for computation in group.computations} | group.unreadable.keys()
        for computation in group.computations:
            if computation.operation is Operation.VERIFY_INPUT:
                continue  # reads a list, which is no value
            needed.update(dict.fromkeys(handle for handle in computation.inputs if handle not in produced))
    return tuple(needed)


def read_values(
    stored: Iterable[StoredCiphertext], facts: KeyFacts, key_id: bytes
) -> tuple[dict[Handle, Value], dict[Handle, IrrecoverableError]]:
    """Read stored ciphertexts.

    Returns:
        The values, and for what cannot be computed on, why.
    """
    values: dict[Handle, Value] = {}
    errors: dict[Handle, IrrecoverableError] = {}
    for item in stored:
        fhe_type = handle_type(item.handle)
        if item.key_id != key_id:
            errors[item.handle] = WrongKey("is encrypted under another key", key_id=item.key_id.hex())
            continue
        try:
            blocks = read_ciphertext(item.data, facts.parameters, kind_of(fhe_type), fhe_type.bits)
        except IrrecoverableError as error:
            errors[item.handle] = error
        else:
            values[item.handle] = Value(key_id, blocks, item.clear)
    return values, errors


def prepare_batch(
    groups: Sequence[WorkGroup],
    values: Mapping[Handle, Value],
    bad_inputs: Mapping[Handle, IrrecoverableError],
    facts: KeyFacts,
    strategy: Strategy | Lanes,
    settings: LoweringSettings = DEFAULT_SETTINGS,
) -> PreparedBatch:
    """Plan groups of one key as one job, without the computations that cannot run.

    Raises:
        PlanningDefect: planning failed in a way that it should not.
    """
    failures = {group.group_id: _spread(group, {**group.unreadable, **_reading(group, bad_inputs)}) for group in groups}
    graphs = [_graph(group, failures[group.group_id], values) for group in groups]
    try:
        planned = plan(graphs, strategy, settings)
    except IrrecoverableError:
        raise
    except Exception as error:
        raise PlanningDefect(f"planning failed with {type(error).__name__}: {error}") from error
    for group in groups:
        own = {computation.output for computation in group.computations}
        found = {handle: failure_of(error) for handle, error in planned.failures.items() if handle in own}
        failures[group.group_id] = _spread(group, {**failures[group.group_id], **found})
    inputs = _gather(planned, values, facts, groups[0].key_id)
    cast = {handle: values[handle] for group in groups for handle in _listed(group) if handle in values}
    return PreparedBatch(tuple(groups), planned, inputs, failures, cast)


def finish_batch(batch: PreparedBatch, outputs: NDArray[np.uint64], facts: KeyFacts, key_id: bytes) -> FinishedBatch:
    """Write the outputs of a job, shape ``(O, k*N+1)``, as ciphertexts, and say what became of each group.

    A wanted output that is neither there nor failed is a defect of planning; it fails by name.
    """
    results: dict[int, list[StoredCiphertext]] = {group.group_id: [] for group in batch.groups}
    values: dict[Handle, Value] = {}
    for output in batch.plan.outputs:
        fhe_type = handle_type(output.handle)
        blocks = outputs[output.first : output.first + output.blocks]
        data = write_ciphertext(blocks, facts.parameters, kind_of(fhe_type), fhe_type.bits, facts.tag)
        results[output.group_id].append(StoredCiphertext(output.handle, key_id, data))
        values[output.handle] = Value(key_id, blocks.copy(), None)
    outcomes: list[GroupOutcome] = []
    values |= batch.cast
    for group in batch.groups:
        for handle in _listed(group) & group.wanted & batch.cast.keys():
            fhe_type = handle_type(handle)
            blocks = batch.cast[handle].blocks
            data = write_ciphertext(blocks, facts.parameters, kind_of(fhe_type), fhe_type.bits, facts.tag)
            results[group.group_id].append(StoredCiphertext(handle, key_id, data))
        failures = dict(batch.failures[group.group_id])
        there = {result.handle for result in results[group.group_id]}
        for handle in group.wanted - there - failures.keys():
            failures[handle] = Failure(PlanningDefect.rule, "planning left this output out")
        outcomes.append(GroupOutcome(group.group_id, tuple(results[group.group_id]), failures))
    return FinishedBatch(tuple(outcomes), values)


def portions(outcomes: Sequence[GroupOutcome], size: int = PORTION_BYTES) -> Iterator[list[GroupOutcome]]:
    """Cut outcomes into lists of about ``size`` bytes of results, each to be stored in one transaction."""
    portion: list[GroupOutcome] = []
    bytes_so_far = 0
    for outcome in outcomes:
        portion.append(outcome)
        bytes_so_far += sum(len(result.data) for result in outcome.results)
        if bytes_so_far >= size:
            yield portion
            portion, bytes_so_far = [], 0
    if portion:
        yield portion


def kind_of(fhe_type: FheType) -> CiphertextKind:
    """Return the TFHE-rs family of a type: FheBool, FheUint or FheInt."""
    if fhe_type is FheType.BOOL:
        return CiphertextKind.BOOL
    return CiphertextKind.INT if fhe_type.is_signed else CiphertextKind.UINT


def _listed(group: WorkGroup) -> frozenset[Handle]:
    """Name the values that a group takes out of lists."""
    return frozenset(item.output for item in group.computations if item.operation is Operation.VERIFY_INPUT)


def _reading(group: WorkGroup, bad_inputs: Mapping[Handle, IrrecoverableError]) -> dict[Handle, Failure]:
    """Fail the computations that read a value which cannot be used."""
    failures: dict[Handle, Failure] = {}
    for computation in group.computations:
        if computation.output in bad_inputs:
            error = bad_inputs[computation.output]
            failures[computation.output] = Failure(error.rule, error.message)
            continue
        for handle in computation.inputs:
            if handle in bad_inputs:
                error = bad_inputs[handle]
                failures[computation.output] = failure_of(error, cause=handle)
    return failures


def _spread(group: WorkGroup, failures: Mapping[Handle, Failure]) -> dict[Handle, Failure]:
    """Fail what depends on failed outputs, too."""
    spread = dict(failures)
    for computation in group.computations:
        if computation.output in spread:
            continue
        cause = next((handle for handle in computation.inputs if handle in spread), None)
        if cause is not None:
            spread[computation.output] = inherited(cause, spread[cause])
    return spread


def _graph(group: WorkGroup, failures: Mapping[Handle, Failure], values: Mapping[Handle, Value]) -> GroupGraph:
    listed = _listed(group)
    computations = tuple(item for item in group.computations if item.output not in failures.keys() | listed)
    clear: dict[Handle, int] = {}
    for computation in computations:
        for handle in computation.inputs:
            value = values.get(handle)
            if value is not None and value.clear is not None:
                clear[handle] = value.clear
    return GroupGraph(group.group_id, computations, group.wanted - failures.keys() - listed, clear)


def _gather(planned: Plan, values: Mapping[Handle, Value], facts: KeyFacts, key_id: bytes) -> NDArray[np.uint64]:
    """Put the blocks that a plan reads one under another, copying each value's blocks at once."""
    width = facts.parameters.big_lwe_dimension + 1
    inputs = np.empty((len(planned.inputs), width), dtype=np.uint64)
    rows: dict[Handle, tuple[list[int], list[int]]] = {}
    drawn: dict[bytes, tuple[list[int], list[int]]] = {}
    for row, source in enumerate(planned.inputs):
        if isinstance(source, PlannedRandom):
            targets, blocks = drawn.setdefault(source.seed, ([], []))
            targets.append(row)
            blocks.append(source.block)
            continue
        targets, blocks = rows.setdefault(source.handle, ([], []))
        targets.append(row)
        blocks.append(source.block)
    for handle, (targets, blocks) in rows.items():
        inputs[targets] = values[handle].blocks[blocks]
    for seed, (targets, blocks) in drawn.items():
        inputs[targets] = oblivious_ciphertexts(key_id, seed, max(blocks) + 1, facts.parameters)[blocks]
    return inputs
