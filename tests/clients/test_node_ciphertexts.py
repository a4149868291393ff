"""What real clients encrypt is decrypted from its blocks, and what we write they decrypt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.tfhe.ciphertext import CiphertextKind, read_ciphertext, trivial_blocks, write_ciphertext
from coproc.tfhe.compact_list import read_compact_list
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2
from coproc.tfhe.server_key import load_casting_key, load_server_key, parameters_name
from coproc.tfhe.wire import WireError, read_object
from coproc.tfhe.wire.keys import ClientKey, StandardClientKey
from tests.clients.node import NodeClient, open_node_client

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.clients.conftest import NodeKeys
    from tests.clients.node import Version

BOOL, UINT, INT = CiphertextKind.BOOL, CiphertextKind.UINT, CiphertextKind.INT
VALUES = [
    (BOOL, 1, 0),
    (BOOL, 1, 1),
    (UINT, 8, 0xA7),
    (UINT, 64, 2**64 - 2),
    (UINT, 160, 2**159 + 12345),
    (INT, 8, -128),
    (INT, 64, -(2**63) + 1),
]


def name_of(kind: CiphertextKind, bits: int) -> str:
    return kind.value if kind is BOOL else f"{kind.value}{bits}"


def standard_key(data: bytes) -> StandardClientKey:
    key = read_object(data, ClientKey).key.key
    assert isinstance(key, StandardClientKey)
    return key


def phases(ciphertexts: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Subtract masks times key from the bodies, modulo 2^64."""
    return ciphertexts[..., -1] - ciphertexts[..., :-1] @ key


def digits(ciphertexts: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Decrypt blocks; fails if the noise is more than that of a fresh ciphertext could be."""
    found = phases(ciphertexts, key)
    rounded = (found + np.uint64(1 << 58)) >> np.uint64(59)
    noise = (found - (rounded << np.uint64(59))).view(np.int64)
    assert np.abs(noise).max() < 1 << 40
    return rounded.astype(np.int64)


def combine(blocks: NDArray[np.int64], kind: CiphertextKind, bits: int) -> int:
    value = sum(int(block) << (2 * i) for i, block in enumerate(blocks))
    return value - (1 << bits) if kind is INT and value >> (bits - 1) else value


@pytest.mark.parametrize("form", ["", "Compressed"])
async def test_ciphertexts_are_decrypted_and_written_back(
    node: NodeClient, toy_node_keys: dict[Version, NodeKeys], form: str
) -> None:
    key = toy_node_keys[node.version].client_key
    big = np.array(standard_key(key).glwe_secret_key.data)
    for kind, bits, value in VALUES:
        name = name_of(kind, bits)
        data = await node.encrypt(key, form + name, value)
        blocks = read_ciphertext(data, TOY_2_2, kind, bits)
        assert combine(digits(blocks, big), kind, bits) == value
        written = write_ciphertext(blocks, TOY_2_2, kind, bits, b"")
        assert await node.decrypt(key, name, written) == value
        assert form or written == data


async def test_trivial_ciphertexts_are_decrypted(node: NodeClient, toy_node_keys: dict[Version, NodeKeys]) -> None:
    key = toy_node_keys[node.version].client_key
    for kind, bits, value in VALUES:
        blocks = trivial_blocks(value, kind.block_count(bits, TOY_2_2), TOY_2_2)
        written = write_ciphertext(blocks, TOY_2_2, kind, bits, b"of the server key")
        assert await node.decrypt(key, name_of(kind, bits), written) == value


async def test_widths_are_told_apart(node: NodeClient, toy_node_keys: dict[Version, NodeKeys]) -> None:
    """TFHE-rs itself takes a FheUint8 for a FheUint16; the number of blocks is all there is to go by."""
    key = toy_node_keys[node.version].client_key
    for form in ("", "Compressed"):
        data = await node.encrypt(key, f"{form}FheUint8", 1)
        for kind, bits in ((UINT, 16), (UINT, 4), (INT, 8), (BOOL, 1)):
            with pytest.raises(WireError):
                read_ciphertext(data, TOY_2_2, kind, bits)


def gadget(base_log: int, level: int) -> NDArray[np.uint64]:
    """Weights of the levels, the finest first."""
    return np.array([1 << (64 - base_log * (level - i)) for i in range(level)], dtype=np.uint64)


def noise(rows: NDArray[np.uint64], key: NDArray[np.uint64], message: NDArray[np.uint64]) -> int:
    return int(np.abs((phases(rows, key) - message).view(np.int64)).max())


@pytest.mark.parametrize("version", ["1.5", "1.6", "1.7"])
def test_every_row_of_an_expanded_key_encrypts_the_right_bit(
    toy_node_keys: dict[Version, NodeKeys], version: Version
) -> None:
    """The noise of each row keeps to the bound of its law: one wrong mask byte would make it uniform."""
    keys = toy_node_keys[version]
    secret = read_object(keys.client_key, ClientKey)
    standard = standard_key(keys.client_key)
    big, small = (np.array(key.data) for key in (standard.glwe_secret_key, standard.lwe_secret_key))
    evaluation = load_server_key(keys.compressed_server_key)
    assert evaluation.parameters == TOY_2_2
    weights = gadget(TOY_2_2.ks_base_log, TOY_2_2.ks_level)
    assert noise(evaluation.keyswitch_key, small, big[:, None] * weights) <= 1 << TOY_2_2.lwe_noise_bound_log2

    dedicated = secret.key.dedicated_compact_private_key
    assert dedicated is not None
    compact = np.array(dedicated[0].key.data)
    casting = load_casting_key(keys.compressed_server_key)
    weights = gadget(casting.base_log, casting.level)
    bound = 1 << TOY_2_2.lwe_noise_bound_log2
    assert noise(casting.keyswitch_key, small, compact[:, None] * weights) <= bound

    # A GGSW row is a GLWE ciphertext: its coefficient 0 is an LWE ciphertext under the key read backwards.
    ggsw = evaluation.bootstrap_key
    masks = np.concatenate([ggsw[..., 0, :1], np.uint64(0) - ggsw[..., 0, :0:-1]], axis=-1)
    rows = np.concatenate([masks, ggsw[..., 1, :1]], axis=-1)[:, 0]
    weight = gadget(TOY_2_2.pbs_base_log, TOY_2_2.pbs_level)[0]
    bound = 1 << TOY_2_2.glwe_noise_bound_log2
    assert noise(rows[:, 1], big, small * weight) <= bound
    assert noise(rows[:, 0], big, np.uint64(0) - small * weight * big[0]) <= bound


@pytest.mark.real
async def test_a_key_of_the_published_parameters_is_expanded() -> None:
    """About seven seconds, nearly all of them in node-tfhe."""
    async with open_node_client("1.5") as client:
        client_key = await client.client_key(toy=False)
        key = load_server_key(await client.compressed_server_key(client_key))
        data = await client.encrypt(client_key, "CompressedFheUint64", 2**64 - 3)
    assert key.parameters == V1_5_2_2
    assert parameters_name(key.parameters) == "V1_5_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128"
    standard = standard_key(client_key)
    big, small = (np.array(secret.data) for secret in (standard.glwe_secret_key, standard.lwe_secret_key))
    rows = key.keyswitch_key[::97]
    message = big[::97, None] * gadget(V1_5_2_2.ks_base_log, V1_5_2_2.ks_level)
    assert noise(rows, small, message) <= 1 << V1_5_2_2.lwe_noise_bound_log2
    blocks = digits(read_ciphertext(data, V1_5_2_2, UINT, 64), big)
    assert combine(blocks, UINT, 64) == 2**64 - 3


@pytest.mark.parametrize("packed", [True, False])
async def test_lists_are_decrypted_under_the_compact_key(
    node: NodeClient, toy_node_keys: dict[Version, NodeKeys], *, packed: bool
) -> None:
    keys = toy_node_keys[node.version]
    listed = [(kind, bits, value) for kind, bits, value in VALUES if bits <= 8]
    values = [(name_of(kind, bits), value) for kind, bits, value in listed]
    data = await node.compact_list(keys.compact_public_key, values, packed=packed)
    assert await node.expand(keys.client_key, data, [name for name, _ in values]) == [value for _, value in values]
    read = read_compact_list(data, TOY_2_2)
    assert [(item.kind, item.bits) for item in read.values] == [(kind, bits) for kind, bits, _ in listed]
    dedicated = read_object(keys.client_key, ClientKey).key.dedicated_compact_private_key
    assert dedicated is not None
    blocks = digits(read.ciphertexts, np.array(dedicated[0].key.data))
    if packed:
        blocks = np.stack([blocks % 4, blocks // 4], axis=1).ravel()
    for item, (kind, bits, value) in zip(read.values, listed, strict=True):
        assert combine(blocks[item.first_block : item.first_block + item.blocks], kind, bits) == value
