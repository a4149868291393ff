"""A lone user gets the circuit of few rounds and a crowd the one of fewest bootstraps, from the same service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

from coproc.circuits.strategy import Strategy
from coproc.cli.demo import add_transfer, make_transfer
from coproc.cli.service import private_service
from coproc.client import Transaction
from coproc.program.catalogue import transfer
from coproc.program.lowering import lower
from coproc.program.types import FheType, new_handle
from nurseries.bridge import open_client

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.cli.service import Service
    from coproc.tfhe.client import ClientKey

CROWD = 32
LANES = 16


def jobs_of(log: Path) -> list[tuple[int, int, int]]:
    """Read groups, bootstraps and levels of every job out of a service's log."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines() if line.startswith("{")]
    return [(line["groups"], line["bootstraps"], line["levels"]) for line in lines if line["event"] == "job computed"]


async def test_a_lone_transfer_takes_few_rounds_and_a_crowd_few_bootstraps(
    toy_client_key: ClientKey, toy_server_key: bytes
) -> None:
    circuits = {strategy: lower(transfer(), strategy).circuit for strategy in Strategy}
    quick, cheap = circuits[Strategy.LATENCY], circuits[Strategy.THROUGHPUT]
    assert quick.depth < cheap.depth
    assert quick.bootstraps > cheap.bootstraps

    async def run(service: Service) -> None:
        async with open_client("127.0.0.1", service.grpc_port) as client:
            key_id = await client.register_key(toy_server_key)
            inputs = {new_handle(FheType.UINT64): value for value in (1000, 5, 700)}
            await client.upload(key_id, {handle: toy_client_key.encrypt(value, 64) for handle, value in inputs.items()})
            lone, outputs = make_transfer(key_id, *inputs)
            await client.submit(lone)
            await client.wait(list(outputs.values()), 100)
            crowd = Transaction(key_id)
            for _ in range(CROWD):
                add_transfer(crowd, *inputs)
            await client.submit(crowd)
            await client.wait(list(crowd.allowed), 250)
            for item in await client.fetch(list(crowd.allowed)[-3:]):
                assert item.ciphertext is not None
                assert toy_client_key.decrypt(item.ciphertext) in {700, 705, 300}

    arguments = ["--allow-insecure-parameters", "--threads", str(LANES), "--executor", "cpu", "--log-format", "json"]
    with trio.fail_after(300), private_service(arguments) as service:
        await run(service)
        jobs = jobs_of(service.log)
    assert jobs[0] == (1, quick.bootstraps, quick.depth)
    assert sum(groups for groups, *_ in jobs[1:]) == CROWD
    assert sum(bootstraps for _, bootstraps, _ in jobs[1:]) == CROWD * cheap.bootstraps
