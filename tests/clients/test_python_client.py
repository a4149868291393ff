"""Python's keys and ciphertexts in real TFHE-rs clients, and theirs in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coproc.tfhe.client import ClientKey

if TYPE_CHECKING:
    from tests.clients.conftest import NodeKeys
    from tests.clients.node import NodeClient, Version

VALUES = [("FheUint8", 200, 8, False), ("FheUint64", 2**64 - 3, 64, False), ("FheInt32", -77, 32, True)]


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize(("name", "value", "bits", "signed"), VALUES)
async def test_node_decrypts_what_python_encrypts(
    node: NodeClient, toy_client_key: ClientKey, name: str, value: int, bits: int, *, signed: bool, seeded: bool
) -> None:
    data = toy_client_key.encrypt(value, bits, signed=signed, seeded=seeded)
    prefix = "Compressed" if seeded else ""
    assert await node.decrypt(toy_client_key.serialize(), f"{prefix}{name}", data) == value


@pytest.mark.parametrize(("name", "value", "bits", "signed"), VALUES)
async def test_python_decrypts_what_node_encrypts_under_its_key(
    node: NodeClient, toy_client_key: ClientKey, name: str, value: int, bits: int, *, signed: bool
) -> None:
    del bits, signed
    for prefix in ("", "Compressed"):
        data = await node.encrypt(toy_client_key.serialize(), f"{prefix}{name}", value)
        assert toy_client_key.decrypt(data) == value


async def test_python_reads_the_keys_of_every_release(toy_node_keys: dict[Version, NodeKeys], node: NodeClient) -> None:
    keys = toy_node_keys[node.version]
    client_key = ClientKey.deserialize(keys.client_key)
    data = await node.encrypt(keys.client_key, "FheUint16", 4321)
    assert client_key.decrypt(data) == 4321
    assert await node.decrypt(keys.client_key, "FheUint16", client_key.encrypt(99, 16, seeded=False)) == 99


async def test_node_takes_the_public_keys_that_python_makes(
    node: NodeClient, toy_client_key: ClientKey, toy_server_key: bytes
) -> None:
    client_key, public_key = toy_client_key.serialize(), toy_client_key.compact_public_key()
    assert await node.reserialize("CompressedServerKey", toy_server_key)
    data = await node.compact_list(public_key, [("FheUint8", 0xA5), ("FheBool", 1)], packed=True)
    assert await node.expand(client_key, data, ["FheUint8", "FheBool"]) == [0xA5, 1]
