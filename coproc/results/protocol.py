"""What is said over the results websocket: JSON messages, their order, and close codes. No input or output here.

The server says ``hello`` (versions and the newest sequence number), the client says ``subscribe`` once, and results
follow in the order of their sequence numbers. A client that comes back subscribes after the last number it has seen and
misses nothing. Unknown fields are ignored, so that newer peers can say more; byte strings are written in hexadecimal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from coproc.errors import InvalidInput, IrrecoverableError
from coproc.program.types import Handle, handle_type, parse_handle
from coproc.store.base import Failure, ResultEvent, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSIONS: Final = (1,)
MAX_MESSAGE_BYTES: Final = 128 * 1024
"""The longest message of a client: a subscription with all its filters fits."""
MAX_FILTERS: Final = 256
"""Transactions, and handles, that one subscription may name."""
MAX_TRANSACTION_ID_BYTES: Final = 64
MAX_SEQUENCE: Final = 2**63 - 1
_STATES: Final = {State.COMPLETED: "completed", State.FAILED: "failed"}
_STATES_BY_NAME: Final = {name: state for state, name in _STATES.items()}


class CloseCode(IntEnum):
    """Why a connection ends (RFC 6455 and the IANA registry)."""

    NORMAL = 1000
    POLICY = 1008
    """The client broke a rule; an ``error`` message said which."""
    INTERNAL = 1011
    RESTART = 1012
    """The service stops or restarts: connect again."""
    TRY_AGAIN = 1013
    """The client reads too slowly, or the database is out of reach: connect again and resume by sequence number."""


class Unauthenticated(IrrecoverableError):
    """The subscription carries no token, or one that is not known."""

    rule = "UNAUTHENTICATED"


@dataclass(frozen=True, slots=True)
class Hello:
    """Server: which versions of this protocol it speaks, and the newest result there is."""

    versions: tuple[int, ...]
    latest_sequence: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Client: what it wants to hear. Without filters that is everything; with both, what passes both."""

    after_sequence: int = 0
    transaction_ids: tuple[bytes, ...] = ()
    handles: tuple[Handle, ...] = ()
    version: int = VERSIONS[-1]
    token: str | None = field(default=None, repr=False)
    """For clients that cannot set the header ``Authorization``."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Server: the subscription holds, and results after this number follow."""

    after_sequence: int


@dataclass(frozen=True, slots=True)
class Position:
    """Server: everything up to this number that passes the filters has been sent; a place to resume from."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Client: are you there? For browsers, which cannot send the ping frames of the websocket itself."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Server: yes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Server: the last message before it closes, when the client is to blame."""

    rule: str
    message: str


ClientMessage: TypeAlias = Subscribe | Ping
ServerMessage: TypeAlias = Hello | Subscribed | ResultEvent | Position | Pong | Refused


@dataclass(frozen=True, slots=True)
class Filter:
    """Which results a subscription wants; an empty set wants all."""

    transaction_ids: frozenset[bytes] = frozenset()
    handles: frozenset[Handle] = frozenset()

    @classmethod
    def of(cls, subscription: Subscribe) -> Filter:
        """Make the filter of a subscription."""
        return cls(frozenset(subscription.transaction_ids), frozenset(subscription.handles))

    def matches(self, event: ResultEvent) -> bool:
        """Whether the subscription wants to hear of ``event``."""
        return (not self.transaction_ids or event.transaction_id in self.transaction_ids) and (
            not self.handles or event.handle in self.handles
        )


def check_subscription(subscription: Subscribe, latest_sequence: int) -> None:
    """Check what depends on the server's state.

    Raises:
        InvalidInput: an unknown version, or a sequence number from the future: one of another database.
    """
    if subscription.version not in VERSIONS:
        spoken = ", ".join(map(str, VERSIONS))
        raise InvalidInput("version", f"must be one of {spoken}, got {subscription.version}")
    if subscription.after_sequence > latest_sequence:
        after = subscription.after_sequence
        raise InvalidInput("after_sequence", f"is {after}, but the newest result here is {latest_sequence}")


# ------------------------------------------------------------------------------------------------------ writing


def write(message: ClientMessage | ServerMessage) -> str:
    """Write a message as one line of JSON."""
    return json.dumps(_fields(message), separators=(",", ":"))


def _fields(message: ClientMessage | ServerMessage) -> Mapping[str, object]:  # noqa: C901, PLR0911 - a case a message
    match message:
        case Hello():
            return {"type": "hello", "versions": message.versions, "latest_sequence": message.latest_sequence}
        case Subscribe():
            wanted: dict[str, object] = {
                "type": "subscribe",
                "version": message.version,
                "after_sequence": message.after_sequence,
            }
            if message.transaction_ids:
                wanted["transaction_ids"] = [transaction_id.hex() for transaction_id in message.transaction_ids]
            if message.handles:
                wanted["handles"] = [handle.hex() for handle in message.handles]
            if message.token is not None:
                wanted["token"] = message.token
            return wanted
        case Subscribed():
            return {"type": "subscribed", "after_sequence": message.after_sequence}
        case ResultEvent():
            return {
                "type": "result",
                "sequence": message.sequence,
                "transaction_id": message.transaction_id.hex(),
                "handle": message.handle.hex(),
                "fhe_type": handle_type(message.handle).name.lower(),
                "state": _STATES[message.state],
                "error": _failure_fields(message.failure),
            }
        case Position():
            return {"type": "position", "sequence": message.sequence}
        case Ping():
            return {"type": "ping"}
        case Pong():
            return {"type": "pong"}
        case Refused():
            return {"type": "error", "rule": message.rule, "message": message.message}


def _failure_fields(failure: Failure | None) -> Mapping[str, object] | None:
    if failure is None:
        return None
    cause = None if failure.cause is None else failure.cause.hex()
    return {"rule": failure.rule, "message": failure.message, "cause": cause}


# ------------------------------------------------------------------------------------------------------ reading


def read_client_message(text: str | bytes) -> ClientMessage:
    """Read a message of a client.

    Raises:
        InvalidInput: naming the field and the rule.
    """
    fields = _read_object(text)
    match fields.get("type"):
        case "ping":
            return Ping()
        case "subscribe":
            token = fields.get("token")
            if token is not None and not isinstance(token, str):
                raise InvalidInput("token", "must be a string")
            return Subscribe(
                after_sequence=_integer(fields, "after_sequence"),
                transaction_ids=tuple(
                    _transaction_id(item, f"transaction_ids[{index}]")
                    for index, item in enumerate(_list(fields, "transaction_ids"))
                ),
                handles=tuple(
                    parse_handle(_hexadecimal(item, f"handles[{index}]"), f"handles[{index}]")
                    for index, item in enumerate(_list(fields, "handles"))
                ),
                version=_integer(fields, "version") if "version" in fields else VERSIONS[-1],
                token=token,
            )
        case _:
            raise InvalidInput("type", "must be subscribe or ping")


def read_server_message(text: str | bytes) -> ServerMessage | None:  # noqa: PLR0911 - a case a message
    """Read a message of a server; None for a type that this client does not know, which it is to ignore.

    Raises:
        InvalidInput: naming the field and the rule.
    """
    fields = _read_object(text)
    match fields.get("type"):
        case "hello":
            versions = fields.get("versions")
            if not isinstance(versions, list) or not all(type(item) is int for item in cast("list[object]", versions)):
                raise InvalidInput("versions", "must be a list of integers")
            return Hello(tuple(cast("list[int]", versions)), _integer(fields, "latest_sequence"))
        case "subscribed":
            return Subscribed(_integer(fields, "after_sequence"))
        case "result":
            return _read_result(fields)
        case "position":
            return Position(_integer(fields, "sequence"))
        case "pong":
            return Pong()
        case "error":
            return Refused(_text(fields, "rule"), _text(fields, "message"))
        case _:
            return None


def _read_result(fields: Mapping[str, object]) -> ResultEvent:
    state = _STATES_BY_NAME.get(_text(fields, "state"))
    if state is None:
        raise InvalidInput("state", f"must be one of {', '.join(_STATES_BY_NAME)}")
    error = fields.get("error")
    failure = None
    if error is not None:
        if not isinstance(error, dict):
            raise InvalidInput("error", "must be an object or null")
        reason = cast("dict[str, object]", error)
        cause = reason.get("cause")
        failure = Failure(
            _text(reason, "rule"),
            _text(reason, "message"),
            None if cause is None else parse_handle(_hexadecimal(cause, "error.cause"), "error.cause"),
        )
    return ResultEvent(
        _integer(fields, "sequence"),
        _transaction_id(fields.get("transaction_id"), "transaction_id"),
        parse_handle(_hexadecimal(fields.get("handle"), "handle"), "handle"),
        state,
        failure,
    )


def _read_object(text: str | bytes) -> Mapping[str, object]:
    if isinstance(text, bytes):
        raise InvalidInput("message", "must be text, not binary")
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("message", "must be JSON") from None
    if not isinstance(found, dict):
        raise InvalidInput("message", "must be a JSON object")
    return cast("dict[str, object]", found)


def _integer(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= MAX_SEQUENCE:  # a bool is an int too, but not here
        raise InvalidInput(name, "must be an integer from 0 to 2^63 - 1")
    return value


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidInput(name, "must be a string")
    return value


def _list(fields: Mapping[str, object], name: str) -> Sequence[object]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise InvalidInput(name, "must be a list")
    items = cast("list[object]", value)
    if len(items) > MAX_FILTERS:
        raise InvalidInput(name, f"has {len(items)} entries, at most {MAX_FILTERS} are allowed")
    return items


def _hexadecimal(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput(name, "must be a string of hexadecimal digits")
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        raise InvalidInput(name, "must be a string of hexadecimal digits") from None


def _transaction_id(value: object, name: str) -> bytes:
    raw = _hexadecimal(value, name)
    if not 1 <= len(raw) <= MAX_TRANSACTION_ID_BYTES:
        raise InvalidInput(name, f"must have 1 to {MAX_TRANSACTION_ID_BYTES} bytes, got {len(raw)}")
    return raw
