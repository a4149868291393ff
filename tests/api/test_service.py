"""Every call, over a real server on localhost, as the Python client makes it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial

import pytest
import trio

from coproc.api.generated.coproc.v1 import StreamResultsRequest
from coproc.api.limits import Limits
from coproc.api.metadata import UnsupportedVersion
from coproc.client import State, Transaction
from coproc.errors import InvalidInput, NotFound, Overloaded
from coproc.program.types import FheType, Handle, new_handle
from coproc.store.base import Failure as StoredFailure
from coproc.store.base import GroupOutcome
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2
from nurseries.bridge import TrioClient, open_client
from tests.api.serving import SETTINGS, Serving, handle, serving, toy_key, toy_server_key, with_limits


async def registered(client: TrioClient) -> bytes:
    return await client.register_key(toy_server_key())


async def uploaded(client: TrioClient, key_id: bytes, *values: int) -> list[Handle]:
    inputs = {handle(): toy_key().encrypt(value, 8, signed=False, seeded=True) for value in values}
    assert await client.upload(key_id, inputs) == len(values)
    return list(inputs)


async def test_the_server_says_what_it_is() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        info = await client.server_info()
    assert info.api_versions == ("1.0",)
    assert (info.software_version, info.tfhe_versions, info.plan_version) == ("1.2.3", ("1.5", "1.6"), 7)
    assert (info.executors, info.results_port) == (("cpu", "reference"), 4242)
    assert info.max_message_bytes == SETTINGS.limits.max_message_bytes
    assert info.max_computations_per_request == SETTINGS.limits.max_computations_per_request


async def test_a_version_from_the_future_is_refused_with_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        with monkeypatch.context() as patch:
            patch.setattr("coproc.client.connection.API_VERSIONS", ("2.0",))
            async with open_client("127.0.0.1", server.port) as client:
                with pytest.raises(UnsupportedVersion, match=r"API version 2\.0 is not supported") as caught:
                    await client.status([handle()])
        assert caught.value.supported == ("1.0",)
        with monkeypatch.context() as patch:
            patch.setattr("coproc.client.client.API_VERSIONS", ("1.7",))
            async with open_client("127.0.0.1", server.port) as client:
                with pytest.raises(UnsupportedVersion, match=r"API version 1\.7 is not supported"):
                    await client.server_info()


async def test_handles_of_a_followed_chain_are_for_its_contracts_to_define(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, chains=frozenset({31337}))
    async with serving(settings) as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        (source,) = await uploaded(client, key_id, 5)
        theirs, others = new_handle(FheType.UINT8, 31337), new_handle(FheType.UINT8, 31338)
        ciphertext = toy_key().encrypt(1, 8, signed=False, seeded=True)
        with pytest.raises(InvalidInput, match=r"items: handle .* is for contracts of chain 31337"):
            await client.upload(key_id, {theirs: ciphertext})
        assert await client.upload(key_id, {others: ciphertext}) == 1
        with pytest.raises(InvalidInput, match=r"items: handle .* is for contracts of chain 31337"):
            await client.trivial_encrypt(key_id, {theirs: 1})
        transaction = Transaction(key_id)
        with monkeypatch.context() as patch:
            patch.setattr("coproc.client.transaction.new_handle", partial(new_handle, chain_id=31337))
            transaction.add(source, 1, allow=True)
        with pytest.raises(InvalidInput, match=r"computations: handle .* is for contracts of chain 31337"):
            await client.submit(transaction)
        readers = Transaction(key_id)
        readers.add(theirs, source, allow=True)
        await client.submit(readers)


async def test_a_key_is_registered_once() -> None:
    heard: list[tuple[int, int]] = []
    data = toy_server_key()
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await client.register_key(data, lambda done, size: heard.append((done, size)))
        assert key_id == hashlib.sha256(data).digest()
        assert heard[0] == (0, len(data))
        assert heard[-1] == (len(data), len(data))
        record = await server.store.get_key(key_id)
        assert record is not None
        assert (record.size, record.parameters) == (len(data), "insecure")
        assert await server.store.read_key(key_id) == data
        assert await client.register_key(data) == key_id


async def test_insecure_keys_are_refused_unless_allowed() -> None:
    strict = replace(SETTINGS, allow_insecure_parameters=False)
    async with serving() as lenient, open_client("127.0.0.1", lenient.port) as client:
        key_id = await registered(client)
        store = lenient.store
    async with serving(strict, store=store) as server, open_client("127.0.0.1", server.port) as client:
        other = ClientKey.generate(TOY_2_2, tag=b"other").compressed_server_key()
        with pytest.raises(InvalidInput, match="server_key: has insecure parameters"):
            await client.register_key(other)
        # One that was registered when it was still allowed is of no use either.
        with pytest.raises(InvalidInput, match="key_id: names a key with insecure parameters"):
            await client.trivial_encrypt(key_id, {handle(): 1})


async def test_what_is_no_key_is_refused_and_not_stored() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        data = b"no key at all" * 1000
        with pytest.raises(InvalidInput):
            await client.register_key(data)
        assert await server.store.get_key(hashlib.sha256(data).digest()) is None


async def test_a_key_over_the_limit_is_refused_before_it_is_sent() -> None:
    async with (
        serving(with_limits(Limits(max_key_bytes=10))) as server,
        open_client("127.0.0.1", server.port) as client,
    ):
        with pytest.raises(InvalidInput, match=r"header\.size: must be 1 to 10 bytes"):
            await client.register_key(toy_server_key())


async def test_inputs_are_stored_once() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        name = handle()
        data = toy_key().encrypt(9, 8, signed=False, seeded=True)
        assert await client.upload(key_id, {name: data}) == 1
        assert await client.upload(key_id, {name: data}) == 0
        (fetched,) = await client.fetch([name])
    assert (fetched.state, fetched.key_id, fetched.ciphertext) == (State.COMPLETED, key_id, data)


async def test_bad_inputs_are_refused_and_their_neighbours_with_them() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        good, bad = handle(), handle()
        data = toy_key().encrypt(9, 8, signed=False, seeded=True)
        with pytest.raises(InvalidInput) as caught:
            await client.upload(key_id, {good: data, bad: b"garbage"})
        assert caught.value.field == "items[1].ciphertext"
        with pytest.raises(InvalidInput) as caught:
            await client.upload(key_id, {handle(FheType.UINT16): data})
        assert caught.value.field == "items[0].ciphertext"
        assert [state.state for state in await client.status([good, bad])] == [State.UNKNOWN, State.UNKNOWN]
        with pytest.raises(NotFound, match="is not registered"):
            await client.upload(bytes(32), {good: data})
        with pytest.raises(InvalidInput, match="key_id: must have 32 bytes"):
            await client.upload(b"key", {good: data})


@pytest.mark.parametrize(
    ("fhe_type", "value"), [(FheType.BOOL, 1), (FheType.UINT8, 200), (FheType.INT16, -5), (FheType.UINT64, 1 << 40)]
)
async def test_public_values_decrypt_to_themselves(fhe_type: FheType, value: int) -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        name = handle(fhe_type)
        assert await client.trivial_encrypt(key_id, {name: value}) == 1
        assert await client.trivial_encrypt(key_id, {name: value}) == 0
        (fetched,) = await client.fetch([name])
        assert fetched.ciphertext is not None
        assert toy_key().decrypt(fetched.ciphertext) == value
        stored = await server.store.get_ciphertexts([name])
    assert stored[name].clear == value & ((1 << fhe_type.bits) - 1)


async def test_public_values_are_bounded_by_what_they_become() -> None:
    async with (
        serving(with_limits(Limits(max_trivial_bytes=1000))) as server,
        open_client("127.0.0.1", server.port) as client,
    ):
        key_id = await registered(client)
        with pytest.raises(InvalidInput, match=r"items: make [0-9]+ bytes, at most 1000 are allowed"):
            await client.trivial_encrypt(key_id, {handle(FheType.UINT256): 1})


async def test_a_graph_is_submitted_once_computed_and_fetched() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        a, b = await uploaded(client, key_id, 3, 4)
        transaction = Transaction(key_id)
        total = transaction.add(a, b)
        double = transaction.add(total, total, allow=True)
        assert await client.submit(transaction) == 2
        assert await client.submit(transaction) == 0
        states = await client.status([double, total, a, double, handle()])
        assert [state.state for state in states] == [
            State.READY,
            State.READY,
            State.COMPLETED,
            State.READY,
            State.UNKNOWN,
        ]
        (before, _) = await client.fetch([double, double])
        assert (before.state, before.ciphertext) == (State.READY, None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.wait, [double], 10.0)
            await server.complete_everything()
        fetched = await client.fetch([a, double, total, double, handle()])
        assert [item.state for item in fetched] == [
            State.COMPLETED,
            State.COMPLETED,
            State.UNKNOWN,
            State.COMPLETED,
            State.UNKNOWN,
        ]
        assert fetched[2].failure is not None
        assert fetched[2].failure.rule == "NOT_ALLOWED"
        assert fetched[1].ciphertext is not None
        assert toy_key().decrypt(fetched[1].ciphertext) == 7
        of_transaction = await client.transaction_status(transaction.transaction_id)
        assert [state.handle for state in of_transaction] == [total, double]


async def test_waiting_computations_name_what_they_miss() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        later = handle()
        (a,) = await uploaded(client, key_id, 1)
        transaction = Transaction(key_id)
        out = transaction.add(a, later, allow=True)
        await client.submit(transaction)
        (state,) = await client.status([out])
        assert (state.state, state.missing_inputs, state.is_allowed) == (State.WAITING, (later,), True)


async def test_submissions_need_a_known_key_and_unknown_transactions_are_not_found() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        transaction = Transaction(bytes(32))
        transaction.add(handle(), handle(), allow=True)
        with pytest.raises(NotFound, match="is not registered"):
            await client.submit(transaction)
        with pytest.raises(NotFound, match="is not known"):
            await client.transaction_status(transaction.transaction_id)


async def test_failures_are_told_with_their_cause() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        (a,) = await uploaded(client, key_id, 1)
        transaction = Transaction(key_id)
        bad = transaction.add(a, a, allow=True)
        follower = transaction.add(bad, bad, allow=True)
        await client.submit(transaction)
        (group,) = await server.store.claim("test", 1, 60.0)
        failures = {
            bad: StoredFailure("NOISE", "too noisy"),
            follower: StoredFailure("INPUT_FAILED", "an input failed", bad),
        }
        outcome = GroupOutcome(group.group_id, (), failures)
        assert await server.store.finish("test", outcome)
        first, second = await client.status([bad, follower])
        assert (first.state, second.state) == (State.FAILED, State.FAILED)
        assert first.failure is not None
        assert second.failure is not None
        assert (first.failure.rule, first.failure.message, first.failure.cause) == ("NOISE", "too noisy", None)
        assert second.failure.cause == bad
        (fetched,) = await client.fetch([bad])
        assert fetched.failure == first.failure


async def submit_one(server: Serving, client: TrioClient, key_id: bytes) -> tuple[bytes, Handle]:
    (a,) = await uploaded(client, key_id, 1)
    transaction = Transaction(key_id)
    out = transaction.add(a, a, allow=True)
    await client.submit(transaction)
    await server.complete_everything()
    return transaction.transaction_id, out


async def test_results_are_streamed_in_order_from_a_sequence_number_on() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await registered(client)
        done = [await submit_one(server, client, key_id) for _ in range(2)]
        with trio.fail_after(10):
            async with client.results() as results:
                first = await anext(results)
                second = await anext(results)
                done.append(await submit_one(server, client, key_id))
                third = await anext(results)
            assert [(item.transaction_id, item.handle) for item in (first, second, third)] == done
            assert first.sequence < second.sequence < third.sequence
            assert {item.state for item in (first, second, third)} == {State.COMPLETED}
            async with client.results(second.sequence) as results:
                assert await anext(results) == third
            async with client.results(transaction_ids=[second.transaction_id, third.transaction_id]) as results:
                assert [await anext(results), await anext(results)] == [second, third]


async def test_a_sequence_number_from_another_database_is_refused() -> None:
    async with (
        serving() as server,
        open_client("127.0.0.1", server.port) as client,
        client.results(after_sequence=5) as results,
    ):
        with pytest.raises(InvalidInput, match="after_sequence: is 5, but the newest result here is 0"):
            await anext(results)


async def test_subscriptions_are_bounded() -> None:
    async def ignore(_message: object) -> None:
        await trio.lowlevel.checkpoint()

    async with serving(with_limits(Limits(max_result_streams=0))) as server:
        with pytest.raises(Overloaded, match="too many subscriptions"), trio.fail_after(10):
            await server.service.stream_results(StreamResultsRequest(), ignore)
