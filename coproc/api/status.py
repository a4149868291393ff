"""Errors as gRPC statuses, and back: both ends of the wire speak in ``coproc.errors``.

Decides which status, text and details an error becomes, and that nothing else leaks: what we did not foresee becomes
INTERNAL with the number of an incident that only the log explains.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Final, cast

import structlog
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from coproc.api.details import ErrorDetails
from coproc.api.metadata import Unauthenticated, UnsupportedVersion
from coproc.errors import (
    CoprocError,
    InvalidInput,
    IrrecoverableError,
    NotFound,
    Overloaded,
    RecoverableError,
    log_fields,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_SECONDS: Final = 1
_MAX_TEXT: Final = 1024

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class DeadlineExceeded(RecoverableError):
    """A call took longer than its deadline."""

    rule = "DEADLINE_EXCEEDED"


_STATUS: Final[tuple[tuple[type[CoprocError], Status], ...]] = (
    (InvalidInput, Status.INVALID_ARGUMENT),
    (NotFound, Status.NOT_FOUND),
    (Unauthenticated, Status.UNAUTHENTICATED),
    (UnsupportedVersion, Status.FAILED_PRECONDITION),
    (DeadlineExceeded, Status.DEADLINE_EXCEEDED),
    (Overloaded, Status.RESOURCE_EXHAUSTED),
)
"""Errors whose text is meant for the caller."""
_KINDS: Final[dict[Status, type[NotFound | Unauthenticated | RecoverableError]]] = {
    Status.NOT_FOUND: NotFound,
    Status.UNAUTHENTICATED: Unauthenticated,
    Status.DEADLINE_EXCEEDED: DeadlineExceeded,
    Status.RESOURCE_EXHAUSTED: Overloaded,
    Status.UNAVAILABLE: RecoverableError,
}


def single_cause(error: BaseException) -> BaseException:
    """Look through exception groups: what a nursery wraps is still that error; our own and gRPC's come first."""
    errors = list(leaves(error))
    return next((leaf for leaf in errors if isinstance(leaf, CoprocError | GRPCError)), errors[0])


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Iterate over the errors inside groups; an error that is no group is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(inner)
    else:
        yield error


def to_status(error: BaseException) -> GRPCError:
    """Turn any error of a handler into the status that the caller sees."""
    error = single_cause(error)
    if isinstance(error, GRPCError):
        return error
    if isinstance(error, TimeoutError | trio.TooSlowError):
        error = DeadlineExceeded("the call took too long")
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return GRPCError(status, _cut(error.message), _details(error))
    if isinstance(error, RecoverableError):
        # What failed, and where, is for the operator.
        log.warning("call failed for now", **log_fields(error))
        text = "a part of the server that this call needs is out of reach; try again"
        return GRPCError(Status.UNAVAILABLE, text, ErrorDetails(error.rule, retry_seconds=_retry_seconds(error)))
    incident = secrets.token_hex(8)
    log.error("call failed", incident=incident, exc_info=error)
    text = f"internal error, incident {incident}"
    return GRPCError(Status.INTERNAL, text, ErrorDetails("INTERNAL", {"incident": incident}))


def _details(error: CoprocError) -> ErrorDetails:
    context = {key: _cut(str(value)) for key, value in error.context.items() if value is not None}
    return ErrorDetails(
        reason=error.rule,
        context=context,
        bad_field=error.field if isinstance(error, InvalidInput) else None,
        bad_field_rule=_cut(error.message),
        precondition=error.message if isinstance(error, UnsupportedVersion) else None,
        retry_seconds=_retry_seconds(error),
    )


def _retry_seconds(error: CoprocError) -> int | None:
    """When to come back: as long as the error itself says, rounded up."""
    if not isinstance(error, RecoverableError):
        return None
    after = error.context.get("retry_after")
    return max(RETRY_SECONDS, math.ceil(after)) if isinstance(after, int | float) else RETRY_SECONDS


def _cut(text: str) -> str:
    # Statuses travel in HTTP/2 headers, whose total size common clients bound to 8 KiB.
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def from_status(error: GRPCError) -> CoprocError:
    """Turn a status that a client received into the error it stands for."""
    details = error.details if isinstance(error.details, ErrorDetails) else ErrorDetails("")
    text = error.message or error.status.name
    if error.status is Status.INVALID_ARGUMENT:
        field = details.bad_field or "request"
        return InvalidInput(field, text.removeprefix(f"{field}: "))
    if details.reason == UnsupportedVersion.rule:
        versions = tuple(details.context.get("supported_versions", "").split(", "))
        return UnsupportedVersion(details.context.get("api_version", "?"), versions)
    context = {key: value for key, value in details.context.items() if key not in {"message", "status"}}
    kind = _KINDS.get(error.status)
    if kind is not None:
        known = kind(text, **context)
        known.rule = details.reason or known.rule
        return known
    failure = IrrecoverableError(text, status=error.status.name, **context)
    failure.rule = details.reason or error.status.name
    return failure
