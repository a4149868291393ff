"""The listener starts, says that it is healthy, asks for tokens, and drains without losing calls."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trio
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from coproc.api.metadata import Unauthenticated
from coproc.errors import FatalError, RecoverableError
from coproc.store.memory_overview import ViewedMemoryStore
from nurseries.bridge import open_client
from nurseries.listener import ListenerSettings, run_listener
from tests.api.google_classes import google_class, serialize
from tests.api.serving import Serving, handle, serving

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.client import ServerInfo
    from coproc.program.types import Handle
    from coproc.store.base import ComputationStatus


class GatedStore(ViewedMemoryStore):
    """A store whose status waits for a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = trio.Event()
        self.gate = trio.Event()

    async def get_status(self, handles: Sequence[Handle]) -> Mapping[Handle, ComputationStatus]:
        self.asked.set()
        await self.gate.wait()
        return await super().get_status(handles)


async def test_an_address_in_use_is_fatal_and_named() -> None:
    async with serving() as server:
        settings = ListenerSettings(port=server.port)
        with pytest.raises(FatalError, match=f"cannot listen on 127.0.0.1:{server.port}"):
            await run_listener(server.service, settings, stopping=trio.Event())


async def test_a_call_in_flight_finishes_while_the_server_drains() -> None:
    store = GatedStore()
    async with serving(store=store) as server, open_client("127.0.0.1", server.port, attempts=1) as client:
        answers: list[object] = []

        async def ask() -> None:
            answers.extend(await client.status([handle()]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await store.asked.wait()
            server.stopping.set()
            await trio.sleep(0.3)
            assert not server.stopped.is_set()
            store.gate.set()
        assert len(answers) == 1
        with trio.fail_after(5):
            await server.stopped.wait()


async def test_what_does_not_finish_in_time_is_told_so() -> None:
    store = GatedStore()
    listener = ListenerSettings(drain_seconds=0.2)
    async with (
        serving(store=store, listener=listener) as server,
        open_client("127.0.0.1", server.port, attempts=1) as client,
    ):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(RecoverableError, match="shutting down"):
                    await client.status([handle()])

            nursery.start_soon(ask)
            await store.asked.wait()
            server.stopping.set()
        with trio.fail_after(5):
            await server.stopped.wait()


async def test_subscriptions_end_with_the_drain_and_do_not_hold_it() -> None:
    async with serving(listener=ListenerSettings(drain_seconds=30.0)) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        stream = channel.unary_stream(
            "/coproc.v1.CoprocessorService/StreamResults",
            request_serializer=serialize,
            response_deserializer=google_class("StreamResultsResponse").FromString,
        )
        ended: list[object] = []

        def follow() -> None:
            with pytest.raises(grpc.RpcError) as caught:
                list(stream(google_class("StreamResultsRequest")(), timeout=20))
            ended.append(caught.value.code())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, follow)
            await trio.sleep(0.3)
            server.stopping.set()
            with trio.fail_after(5):
                await server.stopped.wait()
        channel.close()
        assert ended == [grpc.StatusCode.UNAVAILABLE]


@dataclass
class Load:
    """Callers that never stop, with google's client."""

    port: int
    calls: int = 0
    errors: list[str] = field(default_factory=list[str])
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.so_reuseport", 1)]) as channel:
            call: Any = channel.unary_unary(
                "/coproc.v1.CoprocessorService/GetServerInfo",
                request_serializer=serialize,
                response_deserializer=google_class("GetServerInfoResponse").FromString,
            )
            while not self.enough.is_set():
                try:
                    call(google_class("GetServerInfoRequest")(), timeout=10, wait_for_ready=True)
                    self.calls += 1
                except grpc.RpcError as error:
                    self.errors.append(f"{error.code()}: {error.details()}")


async def start_beside(nursery: trio.Nursery, server: Serving, port: int) -> trio.Event:
    """Start another listener on the same port; returns its stop signal."""
    stopping = trio.Event()
    settings = ListenerSettings(port=port, reuse_port=True, drain_seconds=5.0)

    async def run(*, task_status: trio.TaskStatus[int]) -> None:
        await run_listener(server.service, settings, stopping=stopping, task_status=task_status)

    await nursery.start(run)
    return stopping


async def test_a_rolling_restart_loses_no_call_of_either_client() -> None:
    """A server is stopped while its successor listens on the same port, under load from both kinds of client."""
    infos: list[ServerInfo] = []

    async def ask_for_ever(port: int) -> None:
        async with open_client("127.0.0.1", port) as client:
            while True:
                infos.append(await client.server_info())

    async with serving(listener=ListenerSettings(reuse_port=True)) as first:
        google_class("GetServerInfoRequest")
        load = Load(first.port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, load.run)
            asking = trio.CancelScope()

            async def ask() -> None:
                with asking:
                    await ask_for_ever(first.port)

            nursery.start_soon(ask)
            await trio.sleep(0.3)
            second = await start_beside(nursery, first, first.port)
            first.stopping.set()
            with trio.fail_after(10):
                await first.stopped.wait()
            calls, infos_then = load.calls, len(infos)
            await trio.sleep(0.3)
            load.enough.set()
            asking.cancel()
            second.set()
        # Both went on with the successor.
        assert load.calls > calls > 0
        assert len(infos) > infos_then > 0
        assert load.errors == []


async def test_health_is_told_in_the_standard_way_and_needs_no_token() -> None:
    listener = ListenerSettings(tokens=frozenset({"secret"}), drain_seconds=2.0)
    async with serving(listener=listener) as server:

        def check() -> object:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                call: Any = channel.unary_unary(
                    "/grpc.health.v1.Health/Check",
                    request_serializer=HealthCheckRequest.SerializeToString,
                    response_deserializer=HealthCheckResponse.FromString,
                )
                return call(HealthCheckRequest(), timeout=5).status

        assert await trio.to_thread.run_sync(check) == HealthCheckResponse.SERVING


async def test_tokens_are_asked_for() -> None:
    known, guess = token_hex(), token_hex()
    async with serving(listener=ListenerSettings(tokens=frozenset({known}))) as server:
        async with open_client("127.0.0.1", server.port, token=known) as client:
            assert (await client.server_info()).plan_version == 7
        for token in (None, guess):
            async with open_client("127.0.0.1", server.port, token=token) as client:
                with pytest.raises(Unauthenticated):
                    await client.server_info()


async def test_clients_that_do_not_read_do_not_hold_the_drain() -> None:
    async with serving(listener=ListenerSettings(drain_seconds=0.1)) as server:
        streams = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(3)]
        await trio.sleep(0.1)
        server.stopping.set()
        with trio.fail_after(5):
            await server.stopped.wait()
        for stream in streams:
            await stream.aclose()
