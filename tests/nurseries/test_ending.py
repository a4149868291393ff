"""Cancelling and deadlines as a caller meets them: gRPC, a real database, and an executor that is busy."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import trio

from coproc.client import State, Transaction
from coproc.config import Addresses, Config
from coproc.program.types import FheType, new_handle
from nurseries.bridge import open_client
from nurseries.root import serve
from tests.nurseries.test_root import probe

if TYPE_CHECKING:
    from coproc.tfhe.client import ClientKey


async def bootstraps(addresses: Addresses) -> float:
    _, body = await probe(addresses.health, "/metrics")
    lines = (line.split() for line in body.decode().splitlines())
    return next(float(line[1]) for line in lines if line[0].startswith("coproc_executor_bootstraps_total{"))


def long(key_id: bytes) -> Transaction:
    """Some ten seconds of work and more, in thousands of levels."""
    draft = Transaction(key_id)
    value = draft.trivial_encrypt(77, FheType.UINT64)
    noise = draft.rand(FheType.UINT64)
    for _ in range(10):
        value = draft.div(draft.add(value, noise), noise)
    draft.allow(value)
    return draft


async def test_cancelled_and_late_work_stops_at_the_next_level(
    database_url: str, toy_client_key: ClientKey, toy_server_key: bytes
) -> None:
    config = Config(
        database_url=database_url,
        grpc_port=0,
        results_port=0,
        health_port=0,
        executor="reference",
        strategy="throughput",
        drain_seconds=5.0,
        allow_insecure_parameters=True,
    )

    async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
        assert await serve(config, task_status=task_status) == 0

    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run)
            async with open_client(*addresses.grpc_target) as client:
                key_id = await client.register_key(toy_server_key)
                for seconds, rule in ((None, "CANCELLED"), (1.0, "DEADLINE_EXCEEDED")):
                    draft = long(key_id)
                    before = await bootstraps(addresses)
                    await client.submit(draft, seconds)
                    if seconds is None:
                        while await bootstraps(addresses) == before:  # noqa: ASYNC110 - another process would poll too
                            await trio.sleep(0.02)
                        assert await client.cancel(draft.transaction_id) == len(draft.computations)
                    while not all(  # noqa: ASYNC110 - as callers do
                        status.state.is_final for status in await client.transaction_status(draft.transaction_id)
                    ):
                        await trio.sleep(0.05)
                    statuses = await client.transaction_status(draft.transaction_id)
                    assert {(status.state, status.failure and status.failure.rule) for status in statuses} == {
                        (State.FAILED, rule)
                    }
                    while True:  # the level that runs may end, and no further one begins
                        before = await bootstraps(addresses)
                        await trio.sleep(0.3)
                        if await bootstraps(addresses) == before:
                            break
                    _, body = await probe(addresses.health, "/metrics")
                    assert b"coproc_groups_held 0.0" in body
                a, after = new_handle(FheType.UINT8), Transaction(key_id)
                await client.upload(key_id, {a: toy_client_key.encrypt(4, 8, signed=False)})
                total = after.add(a, 1, allow=True)
                await client.submit(after)
                await client.wait([total])
            os.kill(os.getpid(), signal.SIGTERM)
