"""What the client hands out: frozen records, read from messages in one place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from coproc.errors import IrrecoverableError
from coproc.program.types import Handle

if TYPE_CHECKING:
    from coproc.api.generated.coproc.v1 import Failure as WireFailure
    from coproc.api.generated.coproc.v1 import (
        FetchCiphertextsResponse,
        GetServerInfoResponse,
        HandleStatus,
        StreamResultsResponse,
    )


class State(StrEnum):
    """What is known of a handle."""

    UNKNOWN = "UNKNOWN"
    WAITING = "WAITING"
    READY = "READY"
    COMPUTING = "COMPUTING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self in {State.COMPLETED, State.FAILED}


class ComputationFailed(IrrecoverableError):
    """A computation that was asked for has failed; ``rule`` says why."""

    def __init__(self, handle: Handle, failure: Failure) -> None:
        super().__init__(f"{handle.hex()}: {failure.message}", handle=handle.hex())
        self.rule = failure.rule
        self.handle = handle
        self.failure = failure


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and supports."""

    api_versions: tuple[str, ...]
    software_version: str
    tfhe_versions: tuple[str, ...]
    plan_version: int
    executors: tuple[str, ...]
    results_port: int
    max_message_bytes: int
    max_key_bytes: int
    max_handles_per_request: int
    max_computations_per_request: int
    input_proofs: str
    """``verify`` or ``trust``: what becomes of the proofs of uploaded lists."""


@dataclass(frozen=True, slots=True)
class UploadedInputs:
    """The values of an uploaded list."""

    handles: tuple[Handle, ...]
    """In the order in which they were encrypted."""
    transaction_id: bytes
    """For status and subscriptions."""
    accepted: int
    """How many were not known before."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a computation failed."""

    rule: str
    message: str
    cause: Handle | None
    """The handle whose failure this one follows from, if any."""


@dataclass(frozen=True, slots=True)
class HandleState:
    """How a handle is doing."""

    handle: Handle
    state: State
    is_allowed: bool
    attempts: int
    failure: Failure | None
    missing_inputs: tuple[Handle, ...]


@dataclass(frozen=True, slots=True)
class FetchedCiphertext:
    """What can be read under a handle."""

    handle: Handle
    state: State
    key_id: bytes
    ciphertext: bytes | None
    """``safe_serialize`` bytes of FheBool, FheUint or FheInt; there exactly when COMPLETED."""
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Result:
    """An output that became available or failed."""

    sequence: int
    transaction_id: bytes
    handle: Handle
    state: State
    failure: Failure | None


def read_state(number: int) -> State:
    """Name a state; one that this client does not know counts as UNKNOWN."""
    names = list(State)
    return names[number - 1] if 1 <= number <= len(names) else State.UNKNOWN


def read_failure(message: WireFailure | None) -> Failure | None:
    """Read a failure."""
    if message is None:
        return None
    return Failure(message.rule, message.message, Handle(message.cause_handle) if message.cause_handle else None)


def read_server_info(message: GetServerInfoResponse) -> ServerInfo:
    """Read what a server says of itself."""
    limits = message.limits
    return ServerInfo(
        api_versions=tuple(message.api_versions),
        software_version=message.software_version,
        tfhe_versions=tuple(message.tfhe_versions),
        plan_version=message.plan_version,
        executors=tuple(message.executors),
        results_port=message.results_port,
        max_message_bytes=limits.max_message_bytes if limits else 0,
        max_key_bytes=limits.max_key_bytes if limits else 0,
        max_handles_per_request=limits.max_handles_per_request if limits else 0,
        max_computations_per_request=limits.max_computations_per_request if limits else 0,
        input_proofs=message.input_proofs,
    )


def read_status(message: HandleStatus) -> HandleState:
    """Read the state of a handle."""
    return HandleState(
        handle=Handle(message.handle),
        state=read_state(int(message.state)),
        is_allowed=message.is_allowed,
        attempts=message.attempts,
        failure=read_failure(message.failure),
        missing_inputs=tuple(map(Handle, message.missing_inputs)),
    )


def read_fetched(message: FetchCiphertextsResponse) -> FetchedCiphertext:
    """Read a fetched ciphertext."""
    state = read_state(int(message.state))
    return FetchedCiphertext(
        handle=Handle(message.handle),
        state=state,
        key_id=message.key_id,
        ciphertext=message.ciphertext if state is State.COMPLETED else None,
        failure=read_failure(message.failure),
    )


def read_result(message: StreamResultsResponse) -> Result:
    """Read a pushed result."""
    return Result(
        sequence=message.sequence,
        transaction_id=message.transaction_id,
        handle=Handle(message.handle),
        state=read_state(int(message.state)),
        failure=read_failure(message.failure),
    )
