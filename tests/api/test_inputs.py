"""What is refused of lists of inputs, with the field and the rule; and that no bytes do harm."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from coproc.api.generated.coproc.v1 import Computation as WireComputation
from coproc.api.generated.coproc.v1 import InputBinding as WireBinding
from coproc.api.generated.coproc.v1 import SubmitComputationsRequest, UploadInputsRequest
from coproc.api.inputs import InputUpload, ProofNotVerifiable, ProofPolicy, accept, check_request
from coproc.api.limits import Limits
from coproc.api.validation import check_submission
from coproc.errors import InvalidInput
from coproc.keyring import KeyFacts
from coproc.program.types import FheType, handle_type, new_handle
from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.client.compact_list import ClearValue, encrypt_list
from coproc.tfhe.compact_list import read_compact_list
from coproc.tfhe.lwe import decode, phases
from coproc.tfhe.parameters import TOY_2_2
from coproc.tfhe.wire import WireError, read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    BlockProvenList,
    CompactCiphertextList,
    IntegerProvenList,
    ProvenCompactCiphertextList,
    UnsignedKind,
)
from tests.clients.proofs import empty_proof

if TYPE_CHECKING:
    from coproc.tfhe.client import ClientKey

KEY_ID = b"k" * 32
FACTS = KeyFacts(TOY_2_2, b"", 512)
LIMITS = Limits()
BINDING = WireBinding(
    contract_address=b"\x01" * 20, user_address=b"\x02" * 20, acl_address=b"\x03" * 20, chain_id=31337
)


@pytest.fixture(scope="module")
def made(toy_client_key: ClientKey) -> bytes:
    """A packed list of a boolean and two integers."""
    values = [
        ClearValue(1, 1, CiphertextKind.BOOL),
        ClearValue(7, 8, CiphertextKind.UINT),
        ClearValue(-7, 16, CiphertextKind.INT),
    ]
    return encrypt_list(toy_client_key.compact_public_key(), values)


def check(data: bytes, **changes: object) -> InputUpload:
    request = UploadInputsRequest(key_id=KEY_ID, ciphertext_list=data, binding=BINDING)
    for name, value in changes.items():
        setattr(request, name, value)
    return check_request(request, LIMITS, ProofPolicy.TRUST)


def test_values_become_computations(made: bytes) -> None:
    accepted = accept(check(made), FACTS)
    assert [handle_type(handle) for handle in accepted.handles] == [FheType.BOOL, FheType.UINT8, FheType.INT16]
    assert not accepted.stored.is_allowed
    assert accepted.stored.data == made
    assert all(computation.is_allowed for computation in accepted.submission.computations)
    assert accept(check(made), FACTS) == accepted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_id": b"short"}, "key_id: must have 32 bytes, got 5"),
        ({"ciphertext_list": b""}, "ciphertext_list: must not be empty"),
        (
            {"ciphertext_list": bytes(LIMITS.max_list_bytes + 1)},
            "ciphertext_list: has 16777217 bytes, at most 16777216",
        ),
        ({"binding": WireBinding(chain_id=1)}, "binding.contract_address: an address has 20 bytes, got 0"),
    ],
)
def test_requests_are_checked(made: bytes, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check(made, **changes)


def test_without_a_verifier_nothing_that_needs_a_proof_is_accepted(made: bytes) -> None:
    request = UploadInputsRequest(key_id=KEY_ID, ciphertext_list=made, binding=BINDING)
    with pytest.raises(ProofNotVerifiable, match="binding: inputs of a chain need a proof"):
        check_request(request, LIMITS, ProofPolicy.VERIFY)
    request.binding = None
    assert check_request(request, LIMITS, ProofPolicy.VERIFY).binding is None
    request.ciphertext_list = b"nothing of TFHE-rs"
    with pytest.raises(InvalidInput, match="ciphertext_list"):
        check_request(request, LIMITS, ProofPolicy.VERIFY)


def test_lists_must_fit_the_key_and_the_types(made: bytes, toy_client_key: ClientKey) -> None:
    with pytest.raises(InvalidInput, match="key_id: names a server key without the part that casts"):
        accept(check(made), replace(FACTS, casting_dimension=0))
    with pytest.raises(InvalidInput, match=r"ciphertext_list: .*expected LWE dimension 256, got 512"):
        accept(check(made), replace(FACTS, casting_dimension=256))
    public = toy_client_key.compact_public_key()
    odd = encrypt_list(public, [ClearValue(1, 8, CiphertextKind.UINT), ClearValue(1, 6, CiphertextKind.UINT)])
    with pytest.raises(InvalidInput, match=r"ciphertext_list.values\[1\]: no handle type is FheUint6"):
        accept(check(odd), FACTS)
    many = encrypt_list(public, [ClearValue(1, 1, CiphertextKind.BOOL)] * 256)
    with pytest.raises(InvalidInput, match="ciphertext_list: must hold 1 to 255 values, got 256"):
        accept(check(many), FACTS)
    empty = read_object(made, CompactCiphertextList)
    inner = replace(empty.inner, info=(UnsignedKind(4),))
    with pytest.raises(InvalidInput, match=r"ciphertext_list: .*expected 2 ciphertexts for 4 blocks, got 7"):
        accept(check(write_object(replace(empty, inner=inner))), FACTS)


def proven(*lists: bytes) -> bytes:
    """Make a list of several pieces, each with a proof of nothing."""
    found = [read_object(data, CompactCiphertextList) for data in lists]
    pieces = BlockProvenList(tuple((item.inner.ct_list, empty_proof()) for item in found))
    info = tuple(kind for item in found for kind in item.inner.info)
    return write_object(ProvenCompactCiphertextList(IntegerProvenList(pieces, info), found[0].tag))


def test_proven_lists_come_in_pieces(toy_client_key: ClientKey) -> None:
    public = toy_client_key.compact_public_key()
    # Pieces are cut between ciphertexts, so that each but the last holds whole pairs.
    parts = [encrypt_list(public, [ClearValue(value, 8, CiphertextKind.UINT)]) for value in (5, 250)]
    found = read_compact_list(proven(*parts), TOY_2_2, accept_proven=True)
    assert found.is_proven
    assert toy_client_key.compact_key is not None
    digits = decode(phases(found.ciphertexts, toy_client_key.compact_key), TOY_2_2.delta_log2)
    assert digits.tolist() == [5, 0, 10, 15]
    assert len(accept(check(proven(*parts)), FACTS).handles) == 2
    with pytest.raises(WireError, match="proofs are not verified here"):
        read_compact_list(proven(*parts), TOY_2_2)
    unpacked = encrypt_list(public, [ClearValue(5, 8, CiphertextKind.UINT)], packed=False)
    with pytest.raises(InvalidInput, match=r"ciphertext_list: .*pieces of one kind"):
        accept(check(proven(parts[0], unpacked)), FACTS)


@pytest.mark.parametrize("with_proof", [False, True])
def test_no_bytes_do_harm(made: bytes, *, with_proof: bool) -> None:
    made = proven(made) if with_proof else made
    rng = random.Random(1)
    refused = 0
    fields: set[str] = set()
    for _ in range(1_000):
        data = bytearray(made)
        for _ in range(rng.randint(1, 4)):
            # Structure stands at both ends; the middle is ciphertext, where every byte is as good as another.
            place = rng.choice([rng.randrange(300), len(data) - 1 - rng.randrange(200)])
            data[place] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            accept(check(bytes(data)), FACTS)
        except InvalidInput as error:
            refused += 1
            fields.add(error.field.partition(".")[0])
    assert refused > 300
    # A list that says that it is under the compute key needs no casting key; every other refusal is of the list.
    assert fields == {"ciphertext_list"}


def test_callers_cannot_take_values_out_of_lists_themselves() -> None:
    computation = WireComputation(output_handle=new_handle(FheType.UINT8))
    computation.operation = 23  # type: ignore[assignment]
    request = SubmitComputationsRequest(key_id=KEY_ID, transaction_id=b"t", computations=[computation])
    with pytest.raises(InvalidInput, match=r"computations\[0\].operation: is no operation: 23"):
        check_submission(request, LIMITS)
