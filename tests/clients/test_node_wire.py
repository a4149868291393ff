"""Whatever a real client makes is read and written again without a byte changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coproc.tfhe.wire import Release, read_name, read_object, write_object
from coproc.tfhe.wire.container import OBJECTS
from tests.clients.node import NodeError

if TYPE_CHECKING:
    from tests.clients.conftest import NodeKeys
    from tests.clients.node import NodeClient, Version

RELEASES: dict[Version, Release] = {"1.5": Release.V1_5, "1.6": Release.V1_6, "1.7": Release.V1_7}

VALUES = [
    ("FheBool", 1),
    ("FheUint2", 3),
    ("FheUint8", 200),
    ("FheUint64", 2**63 + 5),
    ("FheUint160", 2**159 + 7),
    ("FheUint256", 2**256 - 1),
    ("FheInt8", -128),
    ("FheInt32", -5),
    ("FheInt128", -(2**127)),
]


def assert_round_trip(data: bytes, release: Release) -> None:
    name = read_name(data)
    assert write_object(read_object(data, OBJECTS[name]), release) == data


async def test_keys_survive_reading_and_writing(node: NodeClient, toy_node_keys: dict[Version, NodeKeys]) -> None:
    keys = toy_node_keys[node.version]
    seeded_public_key = await node.compressed_compact_public_key(keys.client_key)
    for data in (keys.client_key, keys.compressed_server_key, keys.compact_public_key, seeded_public_key):
        assert_round_trip(data, RELEASES[node.version])


@pytest.mark.parametrize("form", ["", "Compressed"])
async def test_ciphertexts_survive_reading_and_writing(
    node: NodeClient, toy_node_keys: dict[Version, NodeKeys], form: str
) -> None:
    key = toy_node_keys[node.version].client_key
    for type_name, value in VALUES:
        data = await node.encrypt(key, form + type_name, value)
        assert await node.decrypt(key, form + type_name, data) == value
        assert_round_trip(data, RELEASES[node.version])


@pytest.mark.parametrize("packed", [True, False])
async def test_lists_survive_reading_and_writing(
    node: NodeClient, toy_node_keys: dict[Version, NodeKeys], *, packed: bool
) -> None:
    keys = toy_node_keys[node.version]
    data = await node.compact_list(keys.compact_public_key, VALUES, packed=packed)
    assert_round_trip(data, RELEASES[node.version])


async def test_objects_of_1_5_are_written_for_every_release(
    node: NodeClient, toy_node_keys: dict[Version, NodeKeys]
) -> None:
    """What a 1.5 client made is upgraded to the client's own release, which then writes the same bytes."""
    old, release = toy_node_keys["1.5"], RELEASES[node.version]
    for type_name, data in (
        ("ClientKey", old.client_key),
        ("CompressedServerKey", old.compressed_server_key),
        ("CompactPublicKey", old.compact_public_key),
    ):
        upgraded = write_object(read_object(data, OBJECTS[type_name]), release)
        assert await node.reserialize(type_name, upgraded) == upgraded


async def test_refusals_of_the_client_are_raised(node: NodeClient) -> None:
    with pytest.raises(NodeError):
        await node.reserialize("FheUint8", b"no ciphertext")
