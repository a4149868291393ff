"""Every refusal of a request names the field and the rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coproc.api.generated.coproc.v1 import (
    CiphertextUpload,
    Computation,
    GetStatusRequest,
    KeyHeader,
    Operand,
    Operation,
    RegisterKeyRequest,
    StreamResultsRequest,
    SubmitComputationsRequest,
    TrivialEncryptRequest,
    TrivialValue,
    UploadCiphertextsRequest,
)
from coproc.api.limits import Limits
from coproc.api.validation import (
    check_announcement,
    check_handles,
    check_status_request,
    check_stream_request,
    check_submission,
    check_trivial_values,
    check_uploads,
)
from coproc.errors import InvalidInput
from coproc.program.computation import Operation as DomainOperation
from coproc.program.computation import Scalar
from coproc.program.types import FheType, new_handle

LIMITS = replace(
    Limits(), max_handles_per_request=3, max_computations_per_request=3, max_operands=4, max_transactions_per_stream=2
)
KEY = bytes(32)
A, B, C = (new_handle(FheType.UINT8) for _ in range(3))
FLAG = new_handle(FheType.BOOL)


def computation(
    operation: int = Operation.ADD, output: bytes = C, operands: tuple[Operand, ...] | None = None
) -> Computation:
    if operands is None:
        operands = (Operand(handle=A), Operand(handle=B))
    return Computation(Operation(operation), output, list(operands), True)


def submission(
    *computations: Computation, key_id: bytes = KEY, transaction_id: bytes = b"t"
) -> SubmitComputationsRequest:
    return SubmitComputationsRequest(key_id, transaction_id, list(computations))


def test_a_sound_submission_becomes_the_domains_own() -> None:
    scalar = computation(Operation.GE, FLAG, (Operand(handle=C), Operand(scalar=b"\x07")))
    checked = check_submission(submission(scalar, computation()), LIMITS)
    assert (checked.key_id, checked.transaction_id) == (KEY, b"t")
    # The producer of C was sent after its consumer.
    assert [item.operation for item in checked.computations] == [DomainOperation.ADD, DomainOperation.GE]
    assert checked.computations[1].operands == (C, Scalar(b"\x07"))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (submission(computation(), key_id=b"short"), "key_id"),
        (submission(computation(), transaction_id=b""), "transaction_id"),
        (submission(computation(), transaction_id=b"x" * 65), "transaction_id"),
        (submission(), "computations"),
        (submission(*[computation()] * 4), "computations"),
        (submission(computation(Operation.UNSPECIFIED)), "computations[0].operation"),
        (submission(computation(), computation(23)), "computations[1].operation"),
        (submission(computation(99)), "computations[0].operation"),
        (submission(computation(output=b"")), "computations[0].output_handle"),
        (submission(computation(output=C[:31] + b"\x01")), "computations[0].output_handle"),
        (submission(computation(output=C[:30] + b"\x63\x00")), "computations[0].output_handle"),
        (submission(computation(operands=(Operand(handle=A),) * 5)), "computations[0].operands"),
        (submission(computation(operands=(Operand(handle=A), Operand()))), "computations[0].operands[1]"),
        (submission(computation(operands=(Operand(handle=b"x"),))), "computations[0].operands[0].handle"),
        (
            submission(computation(operands=(Operand(handle=A), Operand(scalar=b"")))),
            "computations[0].operands[1].scalar",
        ),
        (
            submission(computation(operands=(Operand(handle=A), Operand(scalar=bytes(257))))),
            "computations[0].operands[1].scalar",
        ),
    ],
)
def test_a_bad_submission_is_refused_by_field(request_: SubmitComputationsRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_submission(request_, LIMITS)
    assert caught.value.field == field


def test_types_are_checked_by_the_rules_of_the_operations() -> None:
    wrong = computation(Operation.ADD, FLAG)
    with pytest.raises(InvalidInput) as caught:
        check_submission(submission(wrong), LIMITS)
    assert caught.value.field.startswith("computations[0]")


def test_cycles_are_refused() -> None:
    first = computation(output=C, operands=(Operand(handle=A), Operand(handle=B)))
    second = computation(output=A, operands=(Operand(handle=C), Operand(handle=B)))
    with pytest.raises(InvalidInput) as caught:
        check_submission(submission(first, second), LIMITS)
    assert caught.value.field.startswith("computations")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (None, "header"),
        (RegisterKeyRequest(chunk=b"x"), "header"),
        (RegisterKeyRequest(header=KeyHeader(size=0, sha256=KEY)), "header.size"),
        (RegisterKeyRequest(header=KeyHeader(size=LIMITS.max_key_bytes + 1, sha256=KEY)), "header.size"),
        (RegisterKeyRequest(header=KeyHeader(size=1, sha256=b"")), "header.sha256"),
    ],
)
def test_a_key_must_be_announced(message: RegisterKeyRequest | None, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_announcement(message, LIMITS)
    assert caught.value.field == field


def uploads(*items: tuple[bytes, bytes]) -> UploadCiphertextsRequest:
    return UploadCiphertextsRequest(KEY, [CiphertextUpload(*item) for item in items])


def test_an_upload_may_repeat_itself() -> None:
    assert [item.handle for item in check_uploads(uploads((A, b"1"), (B, b"2"), (A, b"1")), LIMITS)] == [A, B]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (uploads(), "items"),
        (uploads(*[(A, b"1")] * 4), "items"),
        (uploads((b"x", b"1")), "items[0].handle"),
        (uploads((A, b"")), "items[0].ciphertext"),
        (uploads((A, b"1"), (A, b"2")), "items[1].handle"),
    ],
)
def test_bad_uploads_are_refused_by_field(request_: UploadCiphertextsRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_uploads(request_, LIMITS)
    assert caught.value.field == field


def trivials(*items: tuple[bytes, bytes]) -> TrivialEncryptRequest:
    return TrivialEncryptRequest(KEY, [TrivialValue(*item) for item in items])


def test_public_values_are_cut_to_their_type() -> None:
    values = check_trivial_values(trivials((A, b"\x01\x02"), (FLAG, b"\x03"), (B, b"")), LIMITS)
    assert [(item.handle, item.value) for item in values] == [(A, 2), (FLAG, 1), (B, 0)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (trivials(), "items"),
        (trivials((b"x", b"1")), "items[0].handle"),
        (trivials((A, bytes(257))), "items[0].value"),
        (trivials((A, b"\x01"), (A, b"\x02")), "items[1].handle"),
    ],
)
def test_bad_public_values_are_refused_by_field(request_: TrivialEncryptRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_trivial_values(request_, LIMITS)
    assert caught.value.field == field


def test_status_is_asked_of_handles_or_of_a_transaction() -> None:
    assert check_status_request(GetStatusRequest(handles=[A, A]), LIMITS) == (A, A)
    assert check_status_request(GetStatusRequest(transaction_id=b"t"), LIMITS) == b"t"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GetStatusRequest(), "handles"),
        (GetStatusRequest(handles=[A], transaction_id=b"t"), "handles"),
        (GetStatusRequest(handles=[A] * 4), "handles"),
        (GetStatusRequest(handles=[A, b"x"]), "handles[1]"),
        (GetStatusRequest(transaction_id=b"t" * 65), "transaction_id"),
    ],
)
def test_bad_questions_are_refused_by_field(request_: GetStatusRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_status_request(request_, LIMITS)
    assert caught.value.field == field


def test_handles_must_be_some() -> None:
    with pytest.raises(InvalidInput, match="handles: must not be empty"):
        check_handles([], LIMITS)


def test_subscriptions_name_few_transactions() -> None:
    assert check_stream_request(StreamResultsRequest(transaction_ids=[b"a", b"b"]), LIMITS) == (b"a", b"b")
    with pytest.raises(InvalidInput, match="transaction_ids: has 3 entries"):
        check_stream_request(StreamResultsRequest(transaction_ids=[b"a"] * 3), LIMITS)
    with pytest.raises(InvalidInput, match=r"transaction_ids\[1\]: must have 1 to 64 bytes"):
        check_stream_request(StreamResultsRequest(transaction_ids=[b"a", b""]), LIMITS)
