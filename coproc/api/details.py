"""What an error says beside its status and text, and how that travels in ``grpc-status-details-bin``.

Decides the mapping to google's standard detail messages (``google.rpc.BadRequest``, ``PreconditionFailure``,
``RetryInfo``, ``ErrorInfo``), which clients in other languages know. The only module that touches those classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from google.protobuf.duration_pb2 import Duration  # type: ignore[import-untyped] # google ships no stubs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc import status_pb2  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    RetryInfo,
)
from grpclib.encoding.base import StatusDetailsCodecBase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grpclib.const import Status

DOMAIN: Final = "coproc"
_PREFIX: Final = "type.googleapis.com/google.rpc."


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """Everything that a status carries beside its code and text."""

    reason: str
    """Stable name of the rule that was broken (``CoprocError.rule``)."""
    context: Mapping[str, str] = field(default_factory=dict[str, str])
    bad_field: str | None = None
    """The field of the request that is wrong, for example ``computations[3].operands[1].handle``."""
    bad_field_rule: str = ""
    precondition: str | None = None
    """What the caller would have to change before calling again."""
    retry_seconds: int | None = None
    """When it makes sense to try again."""


class DetailsCodec(StatusDetailsCodecBase):
    """Carries ``ErrorDetails`` as google's messages."""

    def encode(self, status: Status, message: str | None, details: ErrorDetails | None) -> bytes:
        """Serialize a ``google.rpc.Status``."""
        packed = status_pb2.Status(code=status.value, message=message or "")
        if details is not None:
            if details.bad_field is not None:
                violation = BadRequest.FieldViolation(field=details.bad_field, description=details.bad_field_rule)
                packed.details.add().Pack(BadRequest(field_violations=[violation]))
            if details.precondition is not None:
                broken = PreconditionFailure.Violation(
                    type=details.reason, subject=DOMAIN, description=details.precondition
                )
                packed.details.add().Pack(PreconditionFailure(violations=[broken]))
            if details.retry_seconds is not None:
                packed.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=details.retry_seconds)))
            packed.details.add().Pack(ErrorInfo(reason=details.reason, domain=DOMAIN, metadata=dict(details.context)))
        serialized: bytes = packed.SerializeToString()
        return serialized

    def decode(self, status: Status, message: str | None, data: bytes) -> ErrorDetails:  # noqa: ARG002 - grpclib's
        """Parse a ``google.rpc.Status``; what cannot be read is left out, since the status itself says enough."""
        reason, context = "", dict[str, str]()
        bad_field, bad_field_rule = None, ""
        precondition = retry_seconds = None
        try:
            for packed in status_pb2.Status.FromString(data).details:
                kind, value = packed.type_url.removeprefix(_PREFIX), packed.value
                if kind == "BadRequest":
                    for violation in BadRequest.FromString(value).field_violations[:1]:
                        bad_field, bad_field_rule = violation.field, violation.description
                elif kind == "PreconditionFailure":
                    for broken in PreconditionFailure.FromString(value).violations[:1]:
                        precondition = broken.description
                elif kind == "RetryInfo":
                    retry_seconds = RetryInfo.FromString(value).retry_delay.seconds
                elif kind == "ErrorInfo":
                    information = ErrorInfo.FromString(value)
                    reason, context = information.reason, dict(information.metadata)
        except DecodeError:
            return ErrorDetails(reason)
        return ErrorDetails(reason, context, bad_field, bad_field_rule, precondition, retry_seconds)
