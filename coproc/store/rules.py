"""The decisions that every store takes alike, as pure functions.

Decides how a batch splits into groups, what contradicts what, and how a failure is passed on. Knows nothing of where
records are kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from coproc.errors import Category, InvalidInput, NotFound
from coproc.store.base import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence

    from coproc.errors import CoprocError
    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.base import GroupOutcome, KeyRecord, StoredCiphertext


INPUT_FAILED: Final = "INPUT_FAILED"
"""The ``Failure.rule`` of a computation that failed only because an input did."""
CANCELLED: Final = Failure("CANCELLED", "the caller cancelled the transaction")
EXPIRED: Final = Failure("DEADLINE_EXCEEDED", "not done by the deadline that the caller had set")
ATTEMPTS_EXHAUSTED: Final = "ATTEMPTS_EXHAUSTED"
"""The ``Failure.rule`` of a computation that was tried as often as allowed."""
MAX_REASON: Final = 1024
"""Characters kept of an error's text: every dependant carries a copy."""


def merge_repeats(computations: Sequence[Computation]) -> dict[Handle, Computation]:
    """Index a batch by output, in submission order; a repeated definition counts once and may raise ``is_allowed``.

    Raises:
        InvalidInput: if two definitions of one output differ.
    """
    merged: dict[Handle, Computation] = {}
    for computation in computations:
        known = merged.get(computation.output)
        if known is None:
            merged[computation.output] = computation
            continue
        check_same_definition(known, computation)
        if computation.is_allowed and not known.is_allowed:
            merged[computation.output] = replace(known, is_allowed=True)
    return merged


def merge_uploads(items: Sequence[StoredCiphertext]) -> dict[Handle, StoredCiphertext]:
    """Index uploads by handle; the same bytes twice count once.

    Raises:
        InvalidInput: if two uploads under one handle differ.
    """
    merged: dict[Handle, StoredCiphertext] = {}
    for item in items:
        known = merged.setdefault(item.handle, item)
        if known.data != item.data or known.key_id != item.key_id:
            raise redefined(item.handle, "handle")
    return merged


def check_same_definition(known: Computation, new: Computation) -> None:
    """Refuse a second, different definition of an output.

    Raises:
        InvalidInput: naming the output.
    """
    if known.operation is not new.operation or known.operands != new.operands:
        raise redefined(new.output)


def redefined(handle: Handle, field: str = "output") -> InvalidInput:
    """Build the error for a handle that already names something else."""
    return InvalidInput(field, "this handle already names another value", handle=handle.hex())


def unknown_key(key_id: bytes) -> NotFound:
    """Build the error for a key that was never registered."""
    return NotFound("no such key", key_id=key_id.hex())


def unknown_transaction(transaction_id: bytes) -> NotFound:
    """Build the error for a transaction that nobody submitted."""
    return NotFound(f"transaction {transaction_id.hex()} is not known", transaction_id=transaction_id.hex())


def connected_groups(computations: Iterable[Computation]) -> list[tuple[Computation, ...]]:
    """Split a batch into connected components: two computations belong together if one feeds the other.

    Sharing an external input does not connect. Order is kept inside a group, and groups are ordered by their first
    member.
    """
    members = {computation.output: computation for computation in computations}
    parent = {output: output for output in members}

    def find(output: Handle) -> Handle:
        while parent[output] != output:
            parent[output] = parent[parent[output]]
            output = parent[output]
        return output

    for computation in members.values():
        for operand in computation.inputs:
            if operand in members:
                parent[find(computation.output)] = find(operand)
    groups: dict[Handle, list[Computation]] = {}
    for computation in members.values():
        groups.setdefault(find(computation.output), []).append(computation)
    return [tuple(group) for group in groups.values()]


def inherited(handle: Handle, failure: Failure) -> Failure:
    """Build the failure of what reads ``handle``, which failed for ``failure``: the root, its rule and text stay."""
    if failure.rule == INPUT_FAILED:
        return failure
    cause = failure.cause or handle
    return Failure(INPUT_FAILED, f"an input failed: {cause.hex()}: {failure.rule}: {failure.message}", cause)


def failure_of(error: CoprocError, cause: Handle | None = None, attempts: int | None = None) -> Failure:
    """Turn an error into what is stored with the computation that it ended.

    Args:
        error: what happened.
        cause: the handle that is to blame, if it is not the computation's own output.
        attempts: how often it was tried, if trying again was worth a thought.
    """
    text = error.message.replace("\0", "")
    if cause is not None:
        text = f"input {cause.hex()}: {text}"
    if (operation := error.context.get("operation")) is not None and str(operation) not in text:
        text = f"{operation}: {text}"
    if error.category is Category.RECOVERABLE and attempts is not None:
        return Failure(ATTEMPTS_EXHAUSTED, _cut(f"tried {attempts} times; the last time: {error.rule}: {text}"), cause)
    return Failure(error.rule, _cut(text), cause)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def check_outcome(outcome: GroupOutcome, key_id: bytes, outputs: Collection[Handle], asked: Collection[Handle]) -> None:
    """Check that an outcome fits the group it is for.

    Args:
        outcome: what a worker hands in.
        key_id: the key of the group.
        outputs: every output of the group.
        asked: the outputs that the claim named as wanted.

    Raises:
        InvalidInput: naming ``results`` or ``failures`` and the handle in question.
    """
    seen: set[Handle] = set()
    for result in outcome.results:
        if result.handle not in outputs or result.handle in seen:
            raise InvalidInput("results", "not an output of this group, or given twice", handle=result.handle.hex())
        if result.key_id != key_id:
            raise InvalidInput("results", "encrypted under another key", handle=result.handle.hex())
        seen.add(result.handle)
    for handle in outcome.failures:
        if handle not in outputs or handle in seen:
            raise InvalidInput("failures", "not an output of this group, or also a result", handle=handle.hex())
    missing = [handle for handle in asked if handle not in seen and handle not in outcome.failures]
    if missing:
        raise InvalidInput("results", "a wanted output has neither result nor failure", handle=missing[0].hex())


async def verified(record: KeyRecord, data: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Pass the bytes of a key through, and hold them to their record at the end.

    Raises:
        InvalidInput: if the size or the SHA-256 differs from what ``record`` says.
    """
    digest = hashlib.sha256()
    size = 0
    async for chunk in data:
        size += len(chunk)
        if size > record.size:
            break
        digest.update(chunk)
        yield chunk
    if size != record.size:
        raise InvalidInput(
            "size", f"{record.size} bytes announced, the data has {'more' if size > record.size else size}"
        )
    if digest.digest() != record.key_id:
        raise InvalidInput("key_id", "not the SHA-256 of the data")
