"""Encrypted inputs at the door: which lists are taken in, and what becomes of each.

Decides the policy on proofs and which values have a handle. Everything but ``check_request`` reads whole lists, takes
milliseconds, and is to be called on a thread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from coproc.api.ciphertexts import kind_of
from coproc.api.validation import check_digest
from coproc.errors import InvalidInput
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.inputs import (
    MAX_VALUES,
    InputBinding,
    check_binding,
    input_handle,
    input_transaction,
    list_handle,
    list_hash,
)
from coproc.program.types import FheType
from coproc.store.base import StoredCiphertext, Submission
from coproc.tfhe.compact_list import read_compact_list
from coproc.tfhe.wire import WireError, read_name

if TYPE_CHECKING:
    from coproc.api.generated.coproc.v1 import UploadInputsRequest
    from coproc.api.limits import Limits
    from coproc.keyring import KeyFacts
    from coproc.program.types import Handle

FIELD: Final = "ciphertext_list"
_PROVEN: Final = "ProvenCompactCiphertextList"
_TYPES: Final = {(kind_of(fhe_type), fhe_type.bits): fhe_type for fhe_type in FheType}


class ProofPolicy(Enum):
    """What becomes of the proofs that come with lists."""

    VERIFY = "verify"
    """No list is accepted whose proof was not verified; as there is no verifier, nothing that needs one is accepted."""
    TRUST = "trust"
    """Proofs are ignored: whoever may upload is trusted to know the values and to be who the binding says."""


class ProofNotVerifiable(InvalidInput):
    """A list needs a verified proof, and there is no verifier."""

    rule = "PROOF_NOT_VERIFIABLE"


@dataclass(frozen=True, slots=True)
class InputUpload:
    """A list, its contents not yet looked at."""

    key_id: bytes
    data: bytes
    binding: InputBinding | None


@dataclass(frozen=True, slots=True)
class AcceptedInputs:
    """What to write down for a list."""

    stored: StoredCiphertext
    """The list itself; never handed out."""
    submission: Submission
    """One computation for every value."""

    @property
    def handles(self) -> tuple[Handle, ...]:
        """The handles of the values, in order."""
        return tuple(computation.output for computation in self.submission.computations)


def check_request(request: UploadInputsRequest, limits: Limits, policy: ProofPolicy) -> InputUpload:
    """Check the shape of an upload and the policy, before the list is read.

    Raises:
        InvalidInput: naming the field and the rule.
        ProofNotVerifiable: the policy asks for more than can be verified.
    """
    key_id = check_digest(request.key_id, "key_id")
    data = request.ciphertext_list
    if not data:
        raise InvalidInput(FIELD, "must not be empty")
    if len(data) > limits.max_list_bytes:
        raise InvalidInput(FIELD, f"has {len(data)} bytes, at most {limits.max_list_bytes} are allowed")
    binding = None
    if request.binding is not None:
        sent = request.binding
        binding = check_binding(
            sent.contract_address, sent.user_address, sent.acl_address, sent.chain_id, field="binding"
        )
    if policy is ProofPolicy.VERIFY:
        _refuse_what_needs_proof(data, binding)
    return InputUpload(key_id, data, binding)


def _refuse_what_needs_proof(data: bytes, binding: InputBinding | None) -> None:
    try:
        is_proven = read_name(data) == _PROVEN
    except WireError as error:
        raise InvalidInput(FIELD, error.message) from error
    if is_proven:
        raise ProofNotVerifiable(
            FIELD,
            "carries a proof, which this server cannot verify; its operator may choose to trust callers instead"
            " (COPROC_INPUT_PROOFS=trust)",
        )
    if binding is not None:
        raise ProofNotVerifiable(
            "binding",
            "inputs of a chain need a proof, which this server cannot verify; its operator may choose to trust callers"
            " instead (COPROC_INPUT_PROOFS=trust)",
        )


def accept(upload: InputUpload, facts: KeyFacts) -> AcceptedInputs:
    """Read a list and derive handles.

    Raises:
        InvalidInput: the list is malformed, does not fit the key, or holds what has no handle.
    """
    parameters = facts.parameters
    if facts.casting_dimension:
        parameters = replace(parameters, compact_lwe_dimension=facts.casting_dimension)
    try:
        found = read_compact_list(upload.data, parameters, accept_proven=True)
    except WireError as error:
        raise InvalidInput(FIELD, error.message) from error
    if found.requires_casting and not facts.casting_dimension:
        raise InvalidInput("key_id", "names a server key without the part that casts compact lists")
    if not 1 <= len(found.values) <= MAX_VALUES:
        raise InvalidInput(FIELD, f"must hold 1 to {MAX_VALUES} values, got {len(found.values)}")
    digest = list_hash(upload.data)
    source = list_handle(digest, upload.key_id)
    computations: list[Computation] = []
    for index, value in enumerate(found.values):
        fhe_type = _TYPES.get((value.kind, value.bits))
        if fhe_type is None:
            raise InvalidInput(f"{FIELD}.values[{index}]", f"no handle type is {value.kind.value}{value.bits}")
        handle = input_handle(digest, index, fhe_type, upload.binding)
        operands = (source, Scalar(bytes([index])))
        computations.append(Computation(handle, Operation.VERIFY_INPUT, operands, is_allowed=True))
    transaction = input_transaction(digest, upload.binding)
    return AcceptedInputs(
        StoredCiphertext(source, upload.key_id, upload.data, is_allowed=False),
        Submission(upload.key_id, transaction, tuple(computations)),
    )
