"""The kernels of GPUs behind the whole service, with a genuine client: many operations at once, and real parameters."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.cli.service import private_service
from coproc.client import Transaction
from coproc.program.computation import Operation
from coproc.program.operations import RULES
from coproc.program.types import FheType, Handle, new_handle
from nurseries.bridge import open_client
from tests.clients.conftest import NodeKeys
from tests.clients.node import open_node_client
from tests.clients.test_end_to_end import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coproc.cli.service import Service
    from tests.clients.node import Version

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation of kernels needs g++")
SOME = [Operation.ADD, Operation.SUB, Operation.BIT_AND, Operation.BIT_XOR, Operation.LT, Operation.EQ, Operation.MIN]


@pytest.fixture(scope="module")
def emulated_service() -> Iterator[Service]:
    with private_service(["--allow-insecure-parameters", "--executor", "emulated"]) as service:
        yield service


async def test_a_mixed_batch_of_200_operations(
    toy_node_keys: dict[Version, NodeKeys], emulated_service: Service
) -> None:
    rng = random.Random(200)
    keys = toy_node_keys["1.6"]
    with trio.fail_after(800):
        async with open_node_client("1.6") as node, open_client("127.0.0.1", emulated_service.grpc_port) as client:
            key_id = await client.register_key(keys.compressed_server_key)
            inputs = {new_handle(FheType.UINT8): rng.randrange(256) for _ in range(8)}
            transaction = Transaction(key_id)
            words: list[Handle] = list(inputs)
            for number in range(200):
                operation = SOME[number % len(SOME)]
                a, b = rng.choice(words), rng.choice(words)
                result = FheType.BOOL if RULES[operation].yields_bool else FheType.UINT8
                made = transaction.compute(operation, (a, b), result, allow=True)
                if result is FheType.UINT8 and len(words) < 60:
                    words.append(made)
            await check(client, node, keys, transaction, inputs)


@pytest.mark.real
async def test_an_addition_with_real_parameters(emulated_service: Service) -> None:
    with trio.fail_after(800):
        async with open_node_client("1.6") as node, open_client("127.0.0.1", emulated_service.grpc_port) as client:
            client_key = await node.client_key(toy=False)
            keys = NodeKeys(client_key, await node.compressed_server_key(client_key), b"")
            key_id = await client.register_key(keys.compressed_server_key)
            a, b = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
            transaction = Transaction(key_id)
            transaction.add(a, b, allow=True)
            await check(client, node, keys, transaction, {a: 201, b: 99})
