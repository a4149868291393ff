"""A real gRPC server on localhost with the memory store, for tests of both ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import trio

from coproc.api.service import CoprocessorService, ServiceSettings
from coproc.client import CoprocClient
from coproc.keyring import KeyCache
from coproc.program.types import FheType, Handle, new_handle
from coproc.store.base import GroupOutcome, StoredCiphertext
from coproc.store.memory_overview import ViewedMemoryStore
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2
from coproc.tfhe.server_key import load_server_key
from nurseries.listener import ListenerSettings, run_listener

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.api.limits import Limits
    from coproc.tfhe.keys import EvaluationKey

SETTINGS = ServiceSettings(
    software_version="1.2.3",
    tfhe_versions=("1.5", "1.6"),
    plan_version=7,
    executors=("cpu", "reference"),
    results_port=4242,
    allow_insecure_parameters=True,
    poll_seconds=0.2,
)


@cache
def toy_key() -> ClientKey:
    """One client key for all tests."""
    return ClientKey.generate(TOY_2_2, tag=b"tests")


@cache
def toy_server_key() -> bytes:
    """Its serialized compressed server key."""
    return toy_key().compressed_server_key()


async def load_on_a_thread(data: bytes) -> EvaluationKey:
    return await trio.to_thread.run_sync(load_server_key, data)


@dataclass
class Serving:
    """A running server."""

    store: ViewedMemoryStore
    service: CoprocessorService
    port: int
    stopping: trio.Event
    stopped: trio.Event

    def client(self, **options: float) -> CoprocClient:
        """Make a client (inside asyncio)."""
        return CoprocClient(
            "127.0.0.1", self.port, timeout=options.get("timeout", 10.0), attempts=int(options.get("attempts", 4))
        )

    async def complete_everything(self) -> None:
        """Play the executor: claim all ready work and store 8-bit sevens as results."""
        seven = toy_key().encrypt(7, 8, signed=False, seeded=True)
        for group in await self.store.claim("test", 100, 60.0):
            results = tuple(StoredCiphertext(handle, group.key_id, seven) for handle in sorted(group.wanted))
            assert await self.store.finish("test", GroupOutcome(group.group_id, results))


@asynccontextmanager
async def serving(
    settings: ServiceSettings = SETTINGS,
    *,
    store: ViewedMemoryStore | None = None,
    listener: ListenerSettings | None = None,
) -> AsyncGenerator[Serving, None]:
    """Run a server until the block ends."""
    store = ViewedMemoryStore() if store is None else store
    service = CoprocessorService(store, KeyCache(store, load_on_a_thread), settings)
    stopping, stopped = trio.Event(), trio.Event()

    async def run(*, task_status: trio.TaskStatus[int]) -> None:
        await run_listener(
            service, listener or ListenerSettings(drain_seconds=2.0), stopping=stopping, task_status=task_status
        )
        stopped.set()

    async with trio.open_nursery() as nursery:
        port = await nursery.start(run)
        yield Serving(store, service, port, stopping, stopped)
        nursery.cancel_scope.cancel()


def with_limits(limits: Limits) -> ServiceSettings:
    """The usual settings with other limits."""
    return replace(SETTINGS, limits=limits)


def handle(fhe_type: FheType = FheType.UINT8) -> Handle:
    """A fresh handle."""
    return new_handle(fhe_type)
