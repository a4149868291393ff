"""The main job with genuine TFHE-rs clients: they make keys and ciphertexts, the service computes, they decrypt."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.client import State, Transaction
from coproc.program.computation import Operation
from coproc.program.meaning import evaluate_graph
from coproc.program.operations import RULES, SIGNED, Shape
from coproc.program.types import FheType, Handle, handle_type, new_handle
from coproc.program.wordgraph import name_values
from coproc.results.client import subscribe
from nurseries.bridge import open_client
from tests.clients.conftest import NodeKeys
from tests.clients.node import open_node_client

if TYPE_CHECKING:
    from coproc.cli.service import Service
    from nurseries.bridge import TrioClient
    from tests.clients.node import NodeClient, Version

BINARY = [operation for operation, rule in RULES.items() if rule.shape is Shape.BINARY]


def type_name(fhe_type: FheType) -> str:
    """Name a type as TFHE-rs does."""
    if fhe_type is FheType.BOOL:
        return "FheBool"
    return f"Fhe{'Int' if fhe_type.is_signed else 'Uint'}{fhe_type.bits}"


def every_operation(transaction: Transaction, a: Handle, b: Handle, condition: Handle, clear: int) -> None:
    """Use every operation that the type has, with encrypted and with clear right operands."""
    fhe_type = handle_type(a)
    for operation in BINARY:
        if fhe_type in RULES[operation].types:
            result = FheType.BOOL if RULES[operation].yields_bool else fhe_type
            transaction.compute(operation, (a, b), result, allow=True)
            transaction.compute(operation, (a, clear), result, allow=True)
    if fhe_type in RULES[Operation.NEG].types:
        transaction.neg(a, allow=True)
    transaction.bit_not(a, allow=True)
    transaction.if_then_else(condition, a, b, allow=True)
    for target in (FheType.BOOL, FheType.UINT8, FheType.UINT32, FheType.INT64):
        transaction.cast(a, target, allow=True)
    transaction.trivial_encrypt(clear, fhe_type, allow=True)
    if fhe_type in RULES[Operation.SUM].types:
        transaction.sum([a, b, a, b, a], allow=True)
        transaction.is_in(a, [b, b, a], allow=True)
    if fhe_type in RULES[Operation.MUL_DIV].types:
        transaction.mul_div(a, clear, 7, allow=True)
        transaction.mul_div(a, b, 10, allow=True)


async def check(
    client: TrioClient, node: NodeClient, keys: NodeKeys, transaction: Transaction, inputs: dict[Handle, int]
) -> None:
    """Upload what node encrypts, compute, and compare what node decrypts with plain integers."""
    uploads = {
        handle: await node.encrypt(keys.client_key, f"Compressed{type_name(handle_type(handle))}", value)
        for handle, value in inputs.items()
    }
    await client.upload(transaction.key_id, uploads)
    await client.submit(transaction)
    states = await client.wait(transaction.allowed, 120)
    assert {state.state for state in states} == {State.COMPLETED}
    named = name_values(transaction.computations, transaction.allowed, {})
    sources = named.handles[: len(named.graph.inputs)]
    clear = evaluate_graph(named.graph, [inputs[handle] for handle in sources])
    fetched = await client.fetch(transaction.allowed)
    for number, item in zip(named.graph.wanted, fetched, strict=True):
        assert item.ciphertext is not None
        found = await node.decrypt(keys.client_key, type_name(handle_type(item.handle)), item.ciphertext)
        step = named.graph.steps[number - len(named.graph.inputs)]
        assert found == clear[number], f"{step} of {inputs.values()}"


@pytest.mark.parametrize(
    "fhe_type",
    [FheType.BOOL, FheType.UINT8, FheType.UINT16, FheType.UINT32, FheType.UINT64, FheType.INT8, FheType.INT64],
)
async def test_every_operation_of_every_release(
    node: NodeClient, toy_node_keys: dict[Version, NodeKeys], running_service: Service, fhe_type: FheType
) -> None:
    rng = random.Random(fhe_type)
    keys = toy_node_keys[node.version]
    low = -(1 << (fhe_type.bits - 1)) if fhe_type in SIGNED else 0
    with trio.fail_after(150):
        async with open_client("127.0.0.1", running_service.grpc_port) as client:
            key_id = await client.register_key(keys.compressed_server_key)
            a, b, condition = new_handle(fhe_type), new_handle(fhe_type), new_handle(FheType.BOOL)
            inputs = {
                a: rng.randrange(low, low + (1 << fhe_type.bits)),
                b: rng.randrange(low, low + (1 << fhe_type.bits)),
                condition: rng.randrange(2),
            }
            transaction = Transaction(key_id)
            every_operation(transaction, a, b, condition, rng.randrange(1, 1 << max(1, fhe_type.bits - 1)))
            await check(client, node, keys, transaction, inputs)


@pytest.mark.real
async def test_every_operation_with_real_parameters(running_service: Service) -> None:
    """What clients use: the parameters of fhevm, at 2^-128; two widths."""
    with trio.fail_after(400):
        async with open_node_client("1.6") as node, open_client("127.0.0.1", running_service.grpc_port) as client:
            client_key = await node.client_key(toy=False)
            keys = NodeKeys(client_key, await node.compressed_server_key(client_key), b"")
            key_id = await client.register_key(keys.compressed_server_key)
            for fhe_type in (FheType.UINT8, FheType.INT16):
                a, b, condition = new_handle(fhe_type), new_handle(fhe_type), new_handle(FheType.BOOL)
                transaction = Transaction(key_id)
                every_operation(transaction, a, b, condition, 29)
                await check(client, node, keys, transaction, {a: 101, b: 77, condition: 1})
            # A second width of what signed integers do not have, and random values.
            a, b = new_handle(FheType.UINT16), new_handle(FheType.UINT16)
            transaction = Transaction(key_id)
            transaction.sum([a, b, a, b, b], allow=True)
            transaction.is_in(a, [b, a], allow=True)
            transaction.mul_div(a, b, 1000, allow=True)
            await check(client, node, keys, transaction, {a: 60_001, b: 12_345})
            for fhe_type in (FheType.UINT8, FheType.UINT64):
                transaction = Transaction(key_id)
                seeds = (bytes(16), bytes(16), b"s" * 16)
                drawn = [transaction.rand(fhe_type, seed, allow=True) for seed in seeds]
                drawn.append(transaction.rand_bounded(16, fhe_type, b"t" * 16, allow=True))
                await client.submit(transaction)
                await client.wait(drawn, 120)
                found: list[int] = []
                for item in await client.fetch(drawn):
                    assert item.ciphertext is not None
                    found.append(int(await node.decrypt(keys.client_key, type_name(fhe_type), item.ciphertext)))
                assert found[0] == found[1]
                assert fhe_type is FheType.UINT8 or found[0] != found[2]
                assert found[3] < 16


async def test_a_subscriber_that_comes_back_misses_nothing(
    toy_node_keys: dict[Version, NodeKeys], running_service: Service
) -> None:
    keys = toy_node_keys["1.6"]
    with trio.fail_after(60):
        async with open_node_client("1.6") as node, open_client("127.0.0.1", running_service.grpc_port) as client:
            key_id = await client.register_key(keys.compressed_server_key)
            a = new_handle(FheType.UINT8)
            await client.upload(key_id, {a: await node.encrypt(keys.client_key, "CompressedFheUint8", 5)})
            transaction = Transaction(key_id)
            wanted = {transaction.add(a, number, allow=True) for number in range(1, 41)}
            url, ids = running_service.addresses.results, [transaction.transaction_id]
            seen: list[Handle] = []
            sequence = 0
            await client.submit(transaction)
            while len(seen) < len(wanted):
                # Seven results, then the line is cut, as by a phone in a tunnel.
                async with subscribe(url, after_sequence=sequence, transaction_ids=ids) as events:
                    received = 0
                    async for event in events:
                        seen.append(event.handle)
                        sequence = event.sequence
                        received += 1
                        if received == 7 or len(seen) == len(wanted):
                            break
            assert len(seen) == len(set(seen))
            assert set(seen) == wanted
