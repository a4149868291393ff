"""Domain records as messages: the way out. Decides how states, failures and results are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.api.generated.coproc.v1 import Failure as WireFailure
from coproc.api.generated.coproc.v1 import FetchCiphertextsResponse, HandleStatus, StreamResultsResponse
from coproc.api.generated.coproc.v1 import State as WireState
from coproc.store.base import State

if TYPE_CHECKING:
    from coproc.program.types import Handle
    from coproc.store.base import ComputationStatus, Failure, ResultEvent, StoredCiphertext

STATES: Final = {state: WireState[state.name] for state in State}
"""States of the domain, by their names on the wire."""
NOT_ALLOWED: Final = "NOT_ALLOWED"
"""Rule that is broken by fetching an output that nobody may read."""


def failure(failed: Failure | None) -> WireFailure | None:
    """Write a failure."""
    if failed is None:
        return None
    return WireFailure(rule=failed.rule, message=failed.message, cause_handle=failed.cause or b"")


def handle_status(handle: Handle, status: ComputationStatus | None) -> HandleStatus:
    """Write the state of a handle; ``None`` when nothing is known of it."""
    if status is None:
        return HandleStatus(handle=handle, state=WireState.UNKNOWN)
    return HandleStatus(
        handle=handle,
        state=STATES[status.state],
        is_allowed=status.is_allowed,
        attempts=status.attempts,
        failure=failure(status.failure),
        missing_inputs=[*status.missing],
    )


def fetched(
    handle: Handle, stored: StoredCiphertext | None, status: ComputationStatus | None
) -> FetchCiphertextsResponse:
    """Write what can be read under a handle: the ciphertext, or why there is none."""
    if stored is not None and stored.is_allowed:
        return FetchCiphertextsResponse(
            handle=handle, state=WireState.COMPLETED, key_id=stored.key_id, ciphertext=stored.data
        )
    if status is None:
        return FetchCiphertextsResponse(handle=handle, state=WireState.UNKNOWN)
    if not status.is_allowed:
        refusal = WireFailure(rule=NOT_ALLOWED, message="nobody may read this intermediate value")
        return FetchCiphertextsResponse(handle=handle, state=WireState.UNKNOWN, failure=refusal)
    # Completed just now, between two looks at the store: the next look will find it.
    state = State.COMPUTING if status.state is State.COMPLETED else status.state
    return FetchCiphertextsResponse(handle=handle, state=STATES[state], failure=failure(status.failure))


def result(event: ResultEvent) -> StreamResultsResponse:
    """Write a result as subscribers see it."""
    return StreamResultsResponse(
        sequence=event.sequence,
        transaction_id=event.transaction_id,
        handle=event.handle,
        state=STATES[event.state],
        failure=failure(event.failure),
    )
