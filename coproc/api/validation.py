"""Requests checked and turned into domain types: the last place where generated classes are seen going in.

Decides which requests are well-formed, as pure functions; every refusal names the field and the rule. What depends on
state (does the key exist?) is the service's business, what operations mean is ``coproc.program``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.api.generated.coproc.v1 import Operation as WireOperation
from coproc.errors import InvalidInput
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.graph import order
from coproc.program.operations import RULES, check
from coproc.program.types import Handle, handle_type, parse_handle
from coproc.store.base import Submission

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from coproc.api.generated.coproc.v1 import Computation as WireComputation
    from coproc.api.generated.coproc.v1 import (
        GetStatusRequest,
        Operand,
        RegisterKeyRequest,
        StreamResultsRequest,
        SubmitComputationsRequest,
        TrivialEncryptRequest,
        UploadCiphertextsRequest,
    )
    from coproc.api.limits import Limits

DIGEST_BYTES: Final = 32
MAX_TRANSACTION_ID_BYTES: Final = 64
COMPUTED: Final = 0xFF
"""Byte 21 of handles of results; values of lists have their index there."""
MAX_COMPUTE_MILLISECONDS: Final = 366 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class KeyAnnouncement:
    """What a client says of a key before it sends it."""

    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded ciphertext, its contents not yet looked at."""

    handle: Handle
    ciphertext: bytes
    field: str
    """Where in the request the bytes are, for errors."""


@dataclass(frozen=True, slots=True)
class TrivialValue:
    """A public value to be made a ciphertext."""

    handle: Handle
    value: int
    """Unsigned, already cut to the bits of the handle's type."""


def check_digest(raw: bytes, field: str) -> bytes:
    """Check the length of a SHA-256 digest (key ids are such)."""
    if len(raw) != DIGEST_BYTES:
        raise InvalidInput(field, f"must have {DIGEST_BYTES} bytes, got {len(raw)}")
    return raw


def check_transaction_id(raw: bytes, field: str = "transaction_id") -> bytes:
    """Check a transaction id: 1 to 64 bytes."""
    if not 1 <= len(raw) <= MAX_TRANSACTION_ID_BYTES:
        raise InvalidInput(field, f"must have 1 to {MAX_TRANSACTION_ID_BYTES} bytes, got {len(raw)}")
    return raw


def _check_count(count: int, limit: int, field: str) -> None:
    if count == 0:
        raise InvalidInput(field, "must not be empty")
    if count > limit:
        raise InvalidInput(field, f"has {count} entries, at most {limit} are allowed")


def check_handles(raw: Sequence[bytes], limits: Limits, field: str = "handles") -> tuple[Handle, ...]:
    """Check a non-empty, bounded list of handles; duplicates are kept."""
    _check_count(len(raw), limits.max_handles_per_request, field)
    return tuple(parse_handle(handle, f"{field}[{index}]") for index, handle in enumerate(raw))


def check_foreign(handles: Iterable[Handle], chains: Collection[int], field: str) -> None:
    """Refuse that a caller gives a meaning to a handle that contracts of a followed chain compute.

    Such handles are hashes that anybody can foresee; who came first would decide what the contract gets.
    """
    for handle in handles:
        chain_id = int.from_bytes(handle[22:30], "big")
        if handle[21] == COMPUTED and chain_id in chains:
            raise InvalidInput(field, f"handle {handle.hex()} is for contracts of chain {chain_id} to define")


def check_announcement(message: RegisterKeyRequest | None, limits: Limits) -> KeyAnnouncement:
    """Check the first message of a key."""
    if message is None or message.header is None:
        raise InvalidInput("header", "must be the first message")
    header = message.header
    if not 1 <= header.size <= limits.max_key_bytes:
        raise InvalidInput("header.size", f"must be 1 to {limits.max_key_bytes} bytes, got {header.size}")
    return KeyAnnouncement(header.size, check_digest(header.sha256, "header.sha256"))


def check_uploads(request: UploadCiphertextsRequest, limits: Limits) -> tuple[Upload, ...]:
    """Check the shape of an upload; a handle may come twice only with the same bytes, and is kept once."""
    _check_count(len(request.items), limits.max_handles_per_request, "items")
    uploads: dict[Handle, Upload] = {}
    for index, item in enumerate(request.items):
        handle = parse_handle(item.handle, f"items[{index}].handle")
        field = f"items[{index}].ciphertext"
        if not item.ciphertext:
            raise InvalidInput(field, "must not be empty")
        known = uploads.setdefault(handle, Upload(handle, item.ciphertext, field))
        if known.ciphertext != item.ciphertext:
            raise InvalidInput(f"items[{index}].handle", "comes twice in this request, with different ciphertexts")
    return tuple(uploads.values())


def check_trivial_values(request: TrivialEncryptRequest, limits: Limits) -> tuple[TrivialValue, ...]:
    """Check public values; a handle may come twice only with the same value, and is kept once."""
    _check_count(len(request.items), limits.max_handles_per_request, "items")
    values: dict[Handle, TrivialValue] = {}
    for index, item in enumerate(request.items):
        handle = parse_handle(item.handle, f"items[{index}].handle")
        if len(item.value) > limits.max_scalar_bytes:
            field = f"items[{index}].value"
            raise InvalidInput(field, f"has {len(item.value)} bytes, at most {limits.max_scalar_bytes} are allowed")
        value = int.from_bytes(item.value, "big") & ((1 << handle_type(handle).bits) - 1)
        known = values.setdefault(handle, TrivialValue(handle, value))
        if known.value != value:
            raise InvalidInput(f"items[{index}].handle", "comes twice in this request, with different values")
    return tuple(values.values())


def check_submission(request: SubmitComputationsRequest, limits: Limits) -> Submission:
    """Check a graph of computations: shapes, types and operations, no cycles; producers come first in the result."""
    key_id = check_digest(request.key_id, "key_id")
    transaction_id = check_transaction_id(request.transaction_id)
    _check_count(len(request.computations), limits.max_computations_per_request, "computations")
    computations = [
        _check_computation(computation, f"computations[{index}]", limits)
        for index, computation in enumerate(request.computations)
    ]
    milliseconds = request.compute_milliseconds
    if milliseconds > MAX_COMPUTE_MILLISECONDS:
        raise InvalidInput("compute_milliseconds", f"must be at most {MAX_COMPUTE_MILLISECONDS}, got {milliseconds}")
    seconds = milliseconds / 1000 if milliseconds else None
    return Submission(key_id, transaction_id, order(computations, "computations"), seconds=seconds)


def _check_computation(computation: WireComputation, field: str, limits: Limits) -> Computation:
    number = int(computation.operation)
    if number == WireOperation.UNSPECIFIED or number - 1 not in RULES:
        raise InvalidInput(f"{field}.operation", f"is no operation: {number}")
    output = parse_handle(computation.output_handle, f"{field}.output_handle")
    if len(computation.operands) > limits.max_operands:
        count = len(computation.operands)
        raise InvalidInput(f"{field}.operands", f"has {count} entries, at most {limits.max_operands} are allowed")
    operands = tuple(
        _check_operand(operand, f"{field}.operands[{index}]", limits)
        for index, operand in enumerate(computation.operands)
    )
    checked = Computation(output, Operation(number - 1), operands, computation.is_allowed)
    check(checked, field)
    return checked


def _check_operand(operand: Operand, field: str, limits: Limits) -> Handle | Scalar:
    if operand.handle is not None:
        return parse_handle(operand.handle, f"{field}.handle")
    if operand.scalar is None:
        raise InvalidInput(field, "must be a handle or a scalar")
    if not 1 <= len(operand.scalar) <= limits.max_scalar_bytes:
        count = len(operand.scalar)
        raise InvalidInput(f"{field}.scalar", f"must have 1 to {limits.max_scalar_bytes} bytes, got {count}")
    return Scalar(operand.scalar)


def check_status_request(request: GetStatusRequest, limits: Limits) -> tuple[Handle, ...] | bytes:
    """Check a question about state: handles, or one transaction id, never both."""
    if bool(request.handles) == bool(request.transaction_id):
        raise InvalidInput("handles", "exactly one of handles and transaction_id must be given")
    if request.handles:
        return check_handles(request.handles, limits)
    return check_transaction_id(request.transaction_id)


def check_stream_request(request: StreamResultsRequest, limits: Limits) -> tuple[bytes, ...]:
    """Check a subscription; returns its transaction ids."""
    if len(request.transaction_ids) > limits.max_transactions_per_stream:
        count = len(request.transaction_ids)
        raise InvalidInput(
            "transaction_ids", f"has {count} entries, at most {limits.max_transactions_per_stream} are allowed"
        )
    return tuple(
        check_transaction_id(raw, f"transaction_ids[{index}]") for index, raw in enumerate(request.transaction_ids)
    )
