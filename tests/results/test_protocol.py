"""Messages survive writing and reading; what is no message is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coproc.errors import InvalidInput
from coproc.program.types import FheType, new_handle
from coproc.results.protocol import (
    MAX_MESSAGE_BYTES,
    Filter,
    Hello,
    Ping,
    Pong,
    Position,
    Refused,
    ServerMessage,
    Subscribe,
    Subscribed,
    check_subscription,
    read_client_message,
    read_server_message,
    write,
)
from coproc.store.base import Failure, ResultEvent, State

handles = st.sampled_from([FheType.BOOL, FheType.UINT64, FheType.INT256]).map(new_handle)
transactions = st.binary(min_size=1, max_size=64)
sequences = st.integers(0, 2**63 - 1)
failures = st.builds(Failure, st.text(), st.text(), st.none() | handles)
results = st.one_of(
    st.builds(ResultEvent, sequences, transactions, handles, st.just(State.COMPLETED)),
    st.builds(ResultEvent, sequences, transactions, handles, st.just(State.FAILED), failures),
)
server_messages = st.one_of(
    st.builds(Hello, st.lists(st.integers(), max_size=3).map(tuple), sequences),
    st.builds(Subscribed, sequences),
    results,
    st.builds(Position, sequences),
    st.just(Pong()),
    st.builds(Refused, st.text(), st.text()),
)
subscriptions = st.builds(
    Subscribe,
    sequences,
    st.lists(transactions, max_size=4).map(tuple),
    st.lists(handles, max_size=4).map(tuple),
    st.integers(0, 9),
    st.none() | st.text(),
)


@given(server_messages)
def test_server_messages_survive(message: ServerMessage) -> None:
    assert read_server_message(write(message)) == message


@given(subscriptions)
def test_client_messages_survive(message: Subscribe) -> None:
    assert read_client_message(write(message)) == message
    assert read_client_message(write(Ping())) == Ping()


def test_the_longest_subscription_fits_a_message() -> None:
    longest = Subscribe(
        2**63 - 1, (b"t" * 64,) * 256, tuple(new_handle(FheType.UINT8) for _ in range(256)), token="x" * 4096
    )
    assert len(write(longest)) < MAX_MESSAGE_BYTES
    assert read_client_message(write(longest)) == longest


def test_a_result_is_written_for_people_who_read_json() -> None:
    handle = new_handle(FheType.UINT64)
    event = ResultEvent(7, b"\x01\x02", handle, State.FAILED, Failure("BROKEN", "why", handle))
    assert json.loads(write(event)) == {
        "type": "result",
        "sequence": 7,
        "transaction_id": "0102",
        "handle": handle.hex(),
        "fhe_type": "uint64",
        "state": "failed",
        "error": {"rule": "BROKEN", "message": "why", "cause": handle.hex()},
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "type: must be subscribe or ping"),
        ({"type": ["ping"]}, "type: must be subscribe or ping"),
        ({"type": "subscribe"}, "after_sequence: must be an integer"),
        ({"type": "subscribe", "after_sequence": True}, "after_sequence: must be an integer"),
        ({"type": "subscribe", "after_sequence": -1}, "after_sequence: must be an integer"),
        ({"type": "subscribe", "after_sequence": 2**63}, "after_sequence: must be an integer"),
        ({"type": "subscribe", "after_sequence": 0, "handles": "all"}, "handles: must be a list"),
        ({"type": "subscribe", "after_sequence": 0, "handles": ["00"]}, r"handles\[0\]: a handle has 32 bytes"),
        ({"type": "subscribe", "after_sequence": 0, "handles": [7]}, r"handles\[0\]: must be a string of hexa"),
        ({"type": "subscribe", "after_sequence": 0, "transaction_ids": ["0x"]}, r"transaction_ids\[0\]: must have 1"),
        ({"type": "subscribe", "after_sequence": 0, "transaction_ids": ["xy"]}, r"transaction_ids\[0\]: must be a str"),
        ({"type": "subscribe", "after_sequence": 0, "transaction_ids": ["00"] * 257}, "has 257 entries, at most 256"),
        ({"type": "subscribe", "after_sequence": 0, "token": 5}, "token: must be a string"),
    ],
)
def test_a_refusal_names_the_field_and_the_rule(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_client_message(json.dumps(fields))


@given(st.one_of(st.text(), st.binary(), st.recursive(st.none() | st.text(), st.lists).map(json.dumps)))
def test_anything_else_is_no_message(text: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        read_client_message(text)


def test_depth_is_no_way_out() -> None:
    with pytest.raises(InvalidInput, match="must be JSON"):
        read_client_message("[" * 100_000)


def test_a_newer_server_may_say_more() -> None:
    assert read_server_message('{"type":"news","about":1}') is None
    assert read_server_message('{"type":"pong","about":1}') == Pong()


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "hello", "versions": [True], "latest_sequence": 1},
        {"type": "error", "rule": 5, "message": ""},
        {"type": "result", "state": "waiting"},
        {"type": "result", "state": "failed", "error": "why"},
    ],
)
def test_what_no_server_says_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        read_server_message(json.dumps(fields))


def test_a_subscription_must_fit_the_server() -> None:
    check_subscription(Subscribe(5), 5)
    with pytest.raises(InvalidInput, match="after_sequence: is 6, but the newest result here is 5"):
        check_subscription(Subscribe(6), 5)
    with pytest.raises(InvalidInput, match="version: must be one of 1, got 2"):
        check_subscription(Subscribe(0, version=2), 5)


@given(st.lists(transactions, max_size=3), st.lists(handles, max_size=3), results)
def test_filters_narrow_each_other(names: list[bytes], wanted: list[object], event: ResultEvent) -> None:
    chosen = Filter(frozenset(names), frozenset(wanted))  # type: ignore[arg-type]
    by_transaction = Filter(frozenset(names))
    by_handle = Filter(handles=frozenset(wanted))  # type: ignore[arg-type]
    assert Filter().matches(event)
    assert chosen.matches(event) == (by_transaction.matches(event) and by_handle.matches(event))
    assert Filter(frozenset({event.transaction_id}), frozenset({event.handle})).matches(event)
