"""Errors become statuses and come back as the same errors; nothing else leaks."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from coproc.api.details import DetailsCodec, ErrorDetails
from coproc.api.metadata import Unauthenticated, UnsupportedVersion
from coproc.api.status import DeadlineExceeded, from_status, to_status
from coproc.errors import (
    CoprocError,
    FatalError,
    InvalidInput,
    IrrecoverableError,
    NotFound,
    Overloaded,
    RecoverableError,
)


def over_the_wire(error: BaseException) -> GRPCError:
    """What a client receives of an error of the server."""
    sent = to_status(error)
    codec = DetailsCodec()
    data = codec.encode(sent.status, sent.message, cast("ErrorDetails | None", sent.details))
    return GRPCError(sent.status, sent.message, codec.decode(sent.status, sent.message, data))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("computations[3].operands[1].handle", "is wrong", got=7), Status.INVALID_ARGUMENT),
        (NotFound("no such key", key_id="ab"), Status.NOT_FOUND),
        (Overloaded("full", queue="scheduler"), Status.RESOURCE_EXHAUSTED),
        (DeadlineExceeded("late"), Status.DEADLINE_EXCEEDED),
        (Unauthenticated("who are you"), Status.UNAUTHENTICATED),
        (UnsupportedVersion("3.0", ("2.0", "1.4")), Status.FAILED_PRECONDITION),
    ],
)
def test_an_error_arrives_as_itself(error: CoprocError, status: Status) -> None:
    received = over_the_wire(error)
    assert received.status is status
    arrived = from_status(received)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    if isinstance(error, InvalidInput):
        assert isinstance(arrived, InvalidInput)
        assert arrived.field == error.field
    if isinstance(error, UnsupportedVersion):
        assert isinstance(arrived, UnsupportedVersion)
        assert arrived.supported == error.supported


def test_a_failing_dependency_is_unavailable_and_stays_unnamed() -> None:
    received = over_the_wire(RecoverableError("cannot reach db.internal:5432", host="db.internal"))
    assert received.status is Status.UNAVAILABLE
    details = cast("ErrorDetails", received.details)
    assert details.retry_seconds == 1
    assert "db.internal" not in str(received.message) + str(details)
    assert type(from_status(received)) is RecoverableError


@pytest.mark.parametrize("error", [ValueError("secret"), IrrecoverableError("secret"), FatalError("secret")])
def test_the_unforeseen_is_an_incident_number(error: Exception) -> None:
    received = over_the_wire(error)
    assert received.status is Status.INTERNAL
    details = cast("ErrorDetails", received.details)
    assert "secret" not in str(received.message) + str(details)
    assert received.message == f"internal error, incident {details.context['incident']}"
    arrived = from_status(received)
    assert type(arrived) is IrrecoverableError
    assert arrived.rule == "INTERNAL"


@pytest.mark.parametrize("error", [TimeoutError("x"), trio.TooSlowError("x")])
def test_running_out_of_time_is_a_deadline(error: Exception) -> None:
    assert to_status(error).status is Status.DEADLINE_EXCEEDED


def test_groups_are_looked_through_and_our_own_errors_come_first() -> None:
    group = ExceptionGroup("nursery", [ValueError("noise"), ExceptionGroup("inner", [NotFound("that one")])])
    assert to_status(group).status is Status.NOT_FOUND
    status = GRPCError(Status.ABORTED, "as it is")
    assert to_status(ExceptionGroup("nursery", [status])) is status


def test_statuses_of_other_servers_keep_their_name() -> None:
    arrived = from_status(GRPCError(Status.DATA_LOSS, "gone"))
    assert (type(arrived), arrived.rule, str(arrived)) == (IrrecoverableError, "DATA_LOSS", "gone")
    bad = from_status(GRPCError(Status.INVALID_ARGUMENT, "bad"))
    assert isinstance(bad, InvalidInput)
    assert bad.field == "request"


def test_long_texts_are_cut_to_fit_a_header() -> None:
    status = to_status(NotFound("x" * 100_000))
    assert status.message is not None
    assert len(status.message) < 2000


def test_details_that_cannot_be_read_are_left_out() -> None:
    assert DetailsCodec().decode(Status.INTERNAL, "x", b"\xff\xff") == ErrorDetails("")
