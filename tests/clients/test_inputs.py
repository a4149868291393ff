"""Lists that real clients encrypt: uploaded to the real service, computed upon, and decrypted by the clients."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.cli.service import private_service
from coproc.client import InputBinding, State, Transaction
from coproc.errors import InvalidInput
from coproc.program.inputs import input_handle, list_hash
from coproc.program.types import FheType, handle_type
from coproc.tfhe.wire import read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    BlockProvenList,
    CompactCiphertextList,
    IntegerProvenList,
    ProvenCompactCiphertextList,
)
from coproc.tfhe.wire.core import EncryptionKeyChoice
from coproc.tfhe.wire.keys import ClientKey
from nurseries.bridge import open_client
from tests.clients.node import VERSIONS, open_node_client
from tests.clients.proofs import empty_proof

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coproc.cli.service import Service
    from coproc.program.types import Handle
    from nurseries.bridge import TrioClient
    from tests.clients.conftest import NodeKeys
    from tests.clients.node import NodeClient, Version

VALUES = (
    ("FheBool", 1, FheType.BOOL),
    ("FheUint8", 200, FheType.UINT8),
    ("FheBool", 0, FheType.BOOL),
    ("FheUint16", 40_000, FheType.UINT16),
    ("FheInt8", -3, FheType.INT8),
    ("FheUint32", 4_000_000_000, FheType.UINT32),
    ("FheUint64", 1 << 63, FheType.UINT64),
    ("FheInt64", -(1 << 63), FheType.INT64),
    ("FheUint4", 9, FheType.UINT4),
    ("FheUint128", (1 << 127) + 5, FheType.UINT128),
    ("FheUint160", (1 << 160) - 2, FheType.UINT160),
    ("FheUint256", (1 << 255) + 3, FheType.UINT256),
    ("FheBool", 1, FheType.BOOL),
)
BINDING = InputBinding(b"\x11" * 20, b"\x22" * 20, b"\x33" * 20, 31337)


@pytest.fixture(scope="module")
def trusting_service() -> Iterator[Service]:
    """A service whose operator trusts proofs."""
    with private_service(["--allow-insecure-parameters", "--input-proofs", "trust"]) as service:
        yield service


async def decrypted(client: TrioClient, node: NodeClient, client_key: bytes, handles: tuple[Handle, ...]) -> list[int]:
    found: list[int] = []
    for item, (name, _, _) in zip(await client.fetch(handles), VALUES, strict=False):
        assert item.ciphertext is not None
        found.append(await node.decrypt(client_key, name, item.ciphertext))
    return found


@pytest.mark.parametrize("packed", [True, False])
async def test_lists_of_every_release_are_computed_upon(
    node: NodeClient, toy_node_keys: dict[Version, NodeKeys], running_service: Service, *, packed: bool
) -> None:
    keys = toy_node_keys[node.version]
    data = await node.compact_list(keys.compact_public_key, [(name, value) for name, value, _ in VALUES], packed=packed)
    with trio.fail_after(120):
        async with open_client("127.0.0.1", running_service.grpc_port) as client:
            key_id = await client.register_key(keys.compressed_server_key)
            uploaded = await client.upload_inputs(key_id, data)
            assert uploaded.accepted == len(VALUES)
            assert [handle_type(handle) for handle in uploaded.handles] == [item[2] for item in VALUES]
            # Asked for at once: the values may still be in the list.
            transaction = Transaction(key_id)
            total = transaction.add(uploaded.handles[1], 60, allow=True)
            chosen = transaction.if_then_else(uploaded.handles[0], uploaded.handles[1], total, allow=True)
            await client.submit(transaction)
            await client.wait([*uploaded.handles, total, chosen], 60)
            assert await decrypted(client, node, keys.client_key, uploaded.handles) == [item[1] for item in VALUES]
            results = [item.ciphertext for item in await client.fetch([total, chosen])]
            assert [await node.decrypt(keys.client_key, "FheUint8", item or b"") for item in results] == [4, 200]
            again = await client.upload_inputs(key_id, data)
            assert (again.handles, again.transaction_id, again.accepted) == (
                uploaded.handles,
                uploaded.transaction_id,
                0,
            )
            states = await client.transaction_status(uploaded.transaction_id)
            assert {state.state for state in states} == {State.COMPLETED}


async def test_keys_that_cast_to_the_big_key(running_service: Service) -> None:
    """The other kind of TFHE-rs' casting parameters (``PKE_TO_BIG``), in a client key that node-tfhe reads."""
    values = [(name, value) for name, value, _ in VALUES[:6]]
    with trio.fail_after(60):
        async with open_node_client("1.5") as node, open_client("127.0.0.1", running_service.grpc_port) as client:
            made = read_object(await node.client_key(toy=True), ClientKey)
            dedicated = made.key.dedicated_compact_private_key
            assert dedicated is not None
            private, casting = dedicated
            casting = replace(casting, ks_base_log=24, ks_level=1, destination_key=EncryptionKeyChoice.BIG)
            client_key = write_object(
                replace(made, key=replace(made.key, dedicated_compact_private_key=(private, casting)))
            )
            key_id = await client.register_key(await node.compressed_server_key(client_key))
            data = await node.compact_list(await node.compact_public_key(client_key), values, packed=True)
            uploaded = await client.upload_inputs(key_id, data)
            await client.wait(uploaded.handles, 60)
            assert await decrypted(client, node, client_key, uploaded.handles) == [value for _, value in values]


async def test_lists_with_proofs_are_refused_or_trusted(
    toy_node_keys: dict[Version, NodeKeys], running_service: Service, trusting_service: Service
) -> None:
    keys = toy_node_keys["1.5"]
    values = [(name, value) for name, value, _ in VALUES[:5]]
    async with open_node_client("1.5") as node:
        plain = await node.compact_list(keys.compact_public_key, values, packed=True)
        found = read_object(plain, CompactCiphertextList)
        pieces = BlockProvenList(((found.inner.ct_list, empty_proof()),))
        data = write_object(ProvenCompactCiphertextList(IntegerProvenList(pieces, found.inner.info), found.tag))
        with trio.fail_after(60):
            async with open_client("127.0.0.1", running_service.grpc_port) as client:
                key_id = await client.register_key(keys.compressed_server_key)
                assert (await client.server_info()).input_proofs == "verify"
                with pytest.raises(InvalidInput, match="ciphertext_list: carries a proof, which this server cannot"):
                    await client.upload_inputs(key_id, data)
                with pytest.raises(InvalidInput, match="binding: inputs of a chain need a proof"):
                    await client.upload_inputs(key_id, plain, BINDING)
            async with open_client("127.0.0.1", trusting_service.grpc_port) as client:
                key_id = await client.register_key(keys.compressed_server_key)
                assert (await client.server_info()).input_proofs == "trust"
                notice = "input proofs are trusted, not verified"
                with urllib.request.urlopen(f"{trusting_service.addresses.health}/readyz") as answer:  # noqa: ASYNC210, S310 - a local probe
                    assert json.load(answer)["notices"] == [notice]
                assert notice in trusting_service.log.read_text("utf-8")
                uploaded = await client.upload_inputs(key_id, data, BINDING)
                digest = list_hash(data)
                assert uploaded.handles == tuple(
                    input_handle(digest, index, item[2], BINDING) for index, item in enumerate(VALUES[:5])
                )
                other = await client.upload_inputs(key_id, data, replace(BINDING, user=b"\x44" * 20))
                assert (other.handles, other.accepted) == (uploaded.handles, 0)
                assert other.transaction_id != uploaded.transaction_id
                await client.wait(uploaded.handles, 60)
                assert await decrypted(client, node, keys.client_key, uploaded.handles) == [item[1] for item in values]


@pytest.mark.real
async def test_a_list_with_real_parameters(running_service: Service) -> None:
    with trio.fail_after(200):
        async with open_node_client(VERSIONS[0]) as node, open_client("127.0.0.1", running_service.grpc_port) as client:
            client_key = await node.client_key(toy=False)
            key_id = await client.register_key(await node.compressed_server_key(client_key))
            values = [(name, value) for name, value, _ in VALUES[:5]]
            data = await node.compact_list(await node.compact_public_key(client_key), values, packed=True)
            uploaded = await client.upload_inputs(key_id, data)
            await client.wait(uploaded.handles, 120)
            assert await decrypted(client, node, client_key, uploaded.handles) == [value for _, value in values]
