"""The client cuts large requests, waits, and is steady across failures of the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import trio
from grpclib.protocol import Connection as GrpcConnection

from coproc.api.status import DeadlineExceeded
from coproc.client import State, Transaction
from coproc.client.client import TRIVIAL_BLOCKS, UPLOAD_BYTES
from coproc.client.connection import Connection, ConnectionLost
from coproc.client.records import ComputationFailed, read_state
from coproc.errors import InvalidInput, NotFound, Overloaded, RecoverableError
from coproc.program.types import FheType, Handle
from coproc.store.base import Failure, GroupOutcome
from coproc.store.memory_overview import ViewedMemoryStore
from nurseries.bridge import TrioClient, open_asyncio, open_client, run_in_asyncio
from nurseries.listener import ListenerSettings, run_listener
from tests.api.serving import SETTINGS, handle, serving, toy_key, toy_server_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.store.base import ComputationStatus


class FailingStore(ViewedMemoryStore):
    """A store that is out of reach for the first calls."""

    def __init__(self, error: Exception, failures: int) -> None:
        super().__init__()
        self.error = error
        self.left = failures
        self.calls = 0

    async def get_status(self, handles: Sequence[Handle]) -> Mapping[Handle, ComputationStatus]:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return await super().get_status(handles)


@pytest.mark.parametrize("error", [RecoverableError("database gone"), Overloaded("queue full")])
async def test_what_may_pass_is_tried_again(error: Exception) -> None:
    store = FailingStore(error, failures=2)
    async with serving(store=store) as server, open_client("127.0.0.1", server.port) as client:
        (state,) = await client.status([handle()])
    assert state.state is State.UNKNOWN
    assert store.calls == 3


@pytest.mark.parametrize(
    ("error", "calls"), [(RecoverableError("database gone"), 2), (NotFound("no"), 1), (InvalidInput("x", "no"), 1)]
)
async def test_trying_ends_with_the_error(error: Exception, calls: int) -> None:
    store = FailingStore(error, failures=99)
    async with serving(store=store) as server, open_client("127.0.0.1", server.port, attempts=2) as client:
        with pytest.raises(type(error)):
            await client.status([handle()])
    assert store.calls == calls


async def test_a_server_that_is_not_there_is_named() -> None:
    async with serving() as server:
        port = server.port
    async with open_client("127.0.0.1", port, attempts=2) as client:
        with pytest.raises(ConnectionLost, match=f"127.0.0.1:{port}"):
            await client.server_info()


async def test_a_client_survives_a_restart_of_the_server_and_results_go_on() -> None:
    """The server dies without a word, and another one with the same store comes to the same port."""
    async with trio.open_nursery() as nursery:
        async with serving() as first:
            port, store = first.port, first.store
            client = await _entered(nursery, port)
            key_id = await client.register_key(toy_server_key())
            a = handle()
            await client.upload(key_id, {a: toy_key().encrypt(1, 8, signed=False, seeded=True)})
            transactions = [Transaction(key_id) for _ in range(2)]
            outputs = [transaction.add(a, a, allow=True) for transaction in transactions]
            await client.submit(transactions[0])
            await first.complete_everything()
            results = client.results()
            stream = await results.__aenter__()
            assert (await anext(stream)).handle == outputs[0]
        stopping = trio.Event()

        async def run(*, task_status: trio.TaskStatus[int]) -> None:
            settings = ListenerSettings(port=port, drain_seconds=1.0)
            await run_listener(first.service, settings, stopping=stopping, task_status=task_status)

        await nursery.start(run)
        assert first.store is store
        assert await client.submit(transactions[1]) == 1
        await first.complete_everything()
        with trio.fail_after(10):
            assert (await anext(stream)).handle == outputs[1]
        await results.__aexit__(None, None, None)
        nursery.cancel_scope.cancel()


async def _entered(nursery: trio.Nursery, port: int) -> TrioClient:
    async def hold(*, task_status: trio.TaskStatus[TrioClient]) -> None:
        async with open_client("127.0.0.1", port) as client:
            task_status.started(client)
            await trio.sleep_forever()

    return await nursery.start(hold)


async def test_uploads_are_cut_into_messages() -> None:
    """17 ciphertexts of 1 MiB in all are more than one message takes."""
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await client.register_key(toy_server_key())
        data = toy_key().encrypt(1, 256, signed=False, seeded=False)
        count = UPLOAD_BYTES // len(data) + 2
        names = [handle(FheType.UINT256) for _ in range(count)]
        assert await client.upload(key_id, dict.fromkeys(names, data)) == count
        fetched = await client.fetch(names)
    assert [item.handle for item in fetched] == names
    assert all(item.ciphertext == data for item in fetched)


async def test_public_values_are_cut_into_messages() -> None:
    count = TRIVIAL_BLOCKS // FheType.UINT256.blocks + 3
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        key_id = await client.register_key(toy_server_key())
        values = {handle(FheType.UINT256): number for number in range(count)}
        assert await client.trivial_encrypt(key_id, values) == count


async def submitted(client: TrioClient) -> Handle:
    key_id = await client.register_key(toy_server_key())
    a = handle()
    await client.upload(key_id, {a: toy_key().encrypt(1, 8, signed=False, seeded=True)})
    transaction = Transaction(key_id)
    out = transaction.add(a, a, allow=True)
    await client.submit(transaction)
    return out


async def test_waiting_has_an_end() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        out = await submitted(client)
        with pytest.raises(DeadlineExceeded, match=r"not completed in 0\.1 seconds"):
            await client.wait([out], 0.1)
        with pytest.raises(NotFound, match="nothing is known"):
            await client.wait([handle()])
        await server.complete_everything()
        (state,) = await client.wait([out])
    assert state.state is State.COMPLETED


async def test_waiting_for_what_fails_says_why() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        out = await submitted(client)
        (group,) = await server.store.claim("test", 1, 60.0)
        await server.store.finish("test", GroupOutcome(group.group_id, (), {out: Failure("NOISE", "too noisy")}))
        with pytest.raises(ComputationFailed, match="too noisy") as caught:
            await client.wait([out])
    assert (caught.value.rule, caught.value.handle) == ("NOISE", out)


async def test_the_asyncio_client_is_usable_by_itself() -> None:
    async with serving() as server, open_asyncio():

        async def use() -> str:
            async with server.client() as client:
                infos = await asyncio.gather(*(client.server_info() for _ in range(20)))
                return infos[-1].software_version

        assert await run_in_asyncio(use)() == SETTINGS.software_version


async def test_a_connection_that_goes_as_a_call_begins_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What grpclib raises then is an AttributeError."""
    create, closed = GrpcConnection.create_stream, list[GrpcConnection]()

    def close_first(connection: GrpcConnection, **options: object) -> object:
        if not closed:
            closed.append(connection)
            connection.close()
        return create(connection, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(GrpcConnection, "create_stream", close_first)
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        assert (await client.server_info()).software_version == SETTINGS.software_version
    assert closed


async def test_errors_that_are_no_failures_of_a_call_are_not_swallowed() -> None:
    async def attempt(_channel: object) -> None:
        await asyncio.sleep(0)
        raise KeyError("a bug")

    async def use() -> None:
        connection = Connection("127.0.0.1", 1)
        try:
            await connection.call(attempt)
        finally:
            connection.close()

    with pytest.raises(KeyError, match="a bug"):
        async with open_asyncio():
            await run_in_asyncio(use)()


def test_states_of_the_future_are_unknown() -> None:
    assert [read_state(number) for number in (0, 1, 5, 6, 7)] == [
        State.UNKNOWN,
        State.UNKNOWN,
        State.COMPLETED,
        State.FAILED,
        State.UNKNOWN,
    ]
    assert [state for state in State if state.is_final] == [State.COMPLETED, State.FAILED]
