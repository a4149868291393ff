"""Corrupt messages are refused with the path of the field, sound ones are not."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from coproc.api.codec import StrictCodec
from coproc.api.generated.coproc.v1 import (
    Computation,
    GetServerInfoRequest,
    GetStatusRequest,
    HandleStatus,
    KeyHeader,
    Limits,
    Operand,
    Operation,
    RegisterKeyRequest,
    SubmitComputationsRequest,
)
from coproc.api.wire import MAX_FIELDS, check_message
from coproc.errors import InvalidInput
from tests.api.google_classes import google_class

SUBMISSION = SubmitComputationsRequest(
    key_id=b"k" * 32,
    transaction_id=b"t",
    computations=[
        Computation(Operation.ADD, b"h" * 32, [Operand(handle=b"a" * 32), Operand(scalar=b"\x01")], True),
        Computation(Operation.NEG, b"i" * 32, [Operand(handle=b"h" * 32)], False),
    ],
)


GOOGLE = google_class("SubmitComputationsRequest")


def test_what_we_encode_is_accepted() -> None:
    check_message(bytes(SUBMISSION), SubmitComputationsRequest)
    assert StrictCodec().decode(bytes(SUBMISSION), SubmitComputationsRequest) == SUBMISSION


def test_unknown_fields_of_every_wire_type_are_tolerated() -> None:
    unknown = b"\xf8\x07\x05" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4) + b"\xfa\x07\x02ab"
    message = StrictCodec().decode(bytes(SUBMISSION) + unknown, SubmitComputationsRequest)
    assert isinstance(message, SubmitComputationsRequest)
    assert message.computations == SUBMISSION.computations


@pytest.mark.parametrize(
    ("data", "message_class", "text"),
    [
        (b"\x0a\x05ab", SubmitComputationsRequest, "key_id: says 5 bytes where 2 are left"),
        (b"\x0b", SubmitComputationsRequest, "key_id: has wire type 3, a bytes has 2"),
        (b"\x08\x01", SubmitComputationsRequest, "key_id: has wire type 0"),
        (b"\x00\x01", SubmitComputationsRequest, "field number out of range: 0"),
        (b"\xf3\x07", SubmitComputationsRequest, "#126: has wire type 3, which proto3 does not have"),
        (b"\xf9\x07\x00", SubmitComputationsRequest, "#127: is cut short"),
        (b"\x80", SubmitComputationsRequest, "message: is cut short inside a number"),
        (b"\x08" + b"\xff" * 10, KeyHeader, "size: has a number of more than 10 bytes"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", KeyHeader, "size: has a number of more than 64 bits"),
        (b"\x18\x80\x80\x80\x80\x10", Limits, "max_handles_per_request: does not fit uint32"),
        (b"\x10\x80\x80\x80\x80\x10", HandleStatus, "state: does not fit enum"),
        (b"\x18\x02", HandleStatus, "is_allowed: is neither true nor false: 2"),
        (b"\x0a\x02\xc3\x28", GetServerInfoRequest, "api_version: is not valid UTF-8"),
        (b"\x1a\x04\x1a\x02\x0a\x07", SubmitComputationsRequest, "computations[0].operands[0].handle: says 7 bytes"),
        (b"\x0a\x02\x08\x01\x12\x01x", RegisterKeyRequest, "chunk: is set beside header, of which only one may be"),
    ],
)
def test_corrupt_messages_are_refused_by_name(
    data: bytes, message_class: type[SubmitComputationsRequest], text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        StrictCodec().decode(data, message_class)
    assert text in str(caught.value)


def test_the_number_of_fields_is_bounded_before_anything_is_decoded() -> None:
    with pytest.raises(InvalidInput, match="more than 50000 fields"):
        StrictCodec().decode(b"\x0a\x00" * (MAX_FIELDS + 1), GetStatusRequest)


@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(0, len(bytes(SUBMISSION)) - 1),
    replacement=st.binary(max_size=3),
    removed=st.integers(0, 4),
)
def test_what_google_refuses_is_refused(position: int, replacement: bytes, removed: int) -> None:
    data = bytes(SUBMISSION)
    data = data[:position] + replacement + data[position + removed :]
    try:
        GOOGLE.FromString(data)
    except DecodeError:
        with pytest.raises(InvalidInput):
            StrictCodec().decode(data, SubmitComputationsRequest)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        StrictCodec().decode(data, SubmitComputationsRequest)
    except InvalidInput:
        return
    GOOGLE.FromString(data)


def test_a_message_of_another_class_is_not_sent() -> None:
    with pytest.raises(TypeError, match="expected a message of type"):
        StrictCodec().encode(KeyHeader(), Limits)
