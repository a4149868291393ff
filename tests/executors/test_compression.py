"""Packing for storage and taking out: the same values, small, and fresh again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.unpacking import unpacking_circuit
from coproc.executors.base import ExecutorUnavailable
from coproc.executors.compression import pack, prepare_unpacking
from coproc.executors.evaluation import Evaluation
from coproc.executors.factory import EXECUTOR_NAMES, create_executor
from coproc.tfhe.ciphertext import CiphertextKind, read_ciphertext, write_ciphertext
from coproc.tfhe.client import ClientKey
from coproc.tfhe.compressed_list import (
    is_compressed_list,
    read_compressed_list,
    read_single_value,
    write_compressed_list,
)
from coproc.tfhe.lwe import phases
from coproc.tfhe.parameters import TOY_2_2, TOY_COMPRESSION
from coproc.tfhe.server_key import load_packing_key, load_server_key, load_unpacking_key, read_server_key_facts
from coproc.tfhe.wire import WireError, read_object, write_object
from coproc.tfhe.wire.ciphertexts import CompressedCiphertextList
from coproc.tfhe.wire.parameters import CenteredMeanModulusSwitch
from coproc.tfhe.wire.server_keys import CompressedServerKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import CompressionParameters

UINT, INT, BOOL = CiphertextKind.UINT, CiphertextKind.INT, CiphertextKind.BOOL


@pytest.fixture(scope="module")
def packing_client_key() -> ClientKey:
    return ClientKey.generate(TOY_2_2, tag=b"packed", compression=TOY_COMPRESSION)


@pytest.fixture(scope="module")
def packing_server_key(packing_client_key: ClientKey) -> bytes:
    return packing_client_key.compressed_server_key()


def compression_of(server_key: bytes) -> CompressionParameters:
    found = read_server_key_facts(server_key).compression
    assert found is not None
    return found


def blocks_of(key: ClientKey, value: int, bits: int) -> NDArray[np.uint64]:
    return read_ciphertext(key.encrypt(value, bits), TOY_2_2, UINT, bits)


def packed(key: ClientKey, server_key: bytes, *values: tuple[int, int]) -> list[bytes]:
    blocks = [blocks_of(key, value, bits) for value, bits in values]
    parts = pack(blocks, load_packing_key(server_key), TOY_2_2.message_modulus)
    compression = compression_of(server_key)
    return [
        write_compressed_list(part, [(UINT, len(own))], TOY_2_2, compression, key.tag)
        for part, own in zip(parts, blocks, strict=True)
    ]


@pytest.mark.parametrize("name", EXECUTOR_NAMES)
def test_values_come_back_fresh(name: str, packing_client_key: ClientKey, packing_server_key: bytes) -> None:
    key = packing_client_key
    values = [(0xDEAD_BEEF_0123_4567, 64), (255, 8), (0, 8)]
    lists = packed(key, packing_server_key, *values)
    assert len(lists[0]) < 500
    compression = compression_of(packing_server_key)
    try:
        executor = create_executor(name, 1)
    except ExecutorUnavailable as missing:
        pytest.skip(missing.message)
    casting = prepare_unpacking(executor, load_server_key(packing_server_key), load_unpacking_key(packing_server_key))
    for data, (value, bits) in zip(lists, values, strict=True):
        assert is_compressed_list(data)
        assert key.decrypt(data) == value, "by the client, as it is"
        taken = read_single_value(data, TOY_2_2, compression, UINT, bits)
        circuit = unpacking_circuit(len(taken))
        evaluation = Evaluation(executor, casting.prepared, circuit, casting.bring(taken))
        evaluation.run_level()
        outputs = evaluation.outputs()
        assert key.decrypt(write_ciphertext(outputs, TOY_2_2, UINT, bits, key.tag)) == value
        phase = phases(outputs, key.glwe_key.reshape(-1))
        errors = phase - ((phase + np.uint64(1 << 58)) >> np.uint64(59) << np.uint64(59))
        assert float(np.abs(errors.view(np.int64)).max()) < 2.0**52, "as little noise as any bootstrap leaves"


def test_several_values_of_all_kinds_share_a_list(packing_client_key: ClientKey, packing_server_key: bytes) -> None:
    key = packing_client_key
    inputs = [
        (key.encrypt(-5, 64, signed=True), INT, 64),
        (key.encrypt_bool(True), BOOL, 1),
        (key.encrypt(7, 8), UINT, 8),
    ]
    blocks = np.concatenate([read_ciphertext(data, TOY_2_2, kind, bits) for data, kind, bits in inputs])
    (parts,) = pack([blocks], load_packing_key(packing_server_key), TOY_2_2.message_modulus)
    compression = compression_of(packing_server_key)
    data = write_compressed_list(parts, [(INT, 32), (BOOL, 1), (UINT, 4)], TOY_2_2, compression, key.tag)
    found = read_compressed_list(data, TOY_2_2, compression)
    assert [(value.kind, value.bits, value.first_block) for value in found.values] == [
        (INT, 64, 0),
        (BOOL, 1, 32),
        (UINT, 8, 33),
    ]
    assert found.ciphertexts.shape == (37, compression.lwe_dimension + 1)
    assert found.tag == key.tag
    with pytest.raises(WireError, match="one value"):
        key.decrypt(data)


def test_lists_that_do_not_fit_are_refused(packing_client_key: ClientKey, packing_server_key: bytes) -> None:
    (data,) = packed(packing_client_key, packing_server_key, (3, 8))
    compression = compression_of(packing_server_key)
    value = read_object(data, CompressedCiphertextList)
    inner = value.inner.packed_list
    (glwe,), meta = inner.modulus_switched_glwe_ciphertext_list, inner.meta
    assert meta is not None

    def rewritten(**changes: object) -> bytes:
        block = replace(inner, **changes)  # type: ignore[arg-type]
        return write_object(replace(value, inner=replace(value.inner, packed_list=block)))

    assert read_single_value(rewritten(), TOY_2_2, compression, UINT, 8).shape[0] == 4
    bad = {
        "no blocks": rewritten(modulus_switched_glwe_ciphertext_list=()),
        "two": rewritten(modulus_switched_glwe_ciphertext_list=(glwe, glwe)),
        "moduli": rewritten(meta=replace(meta, message_modulus=2)),
        "meta": rewritten(meta=None),
        "each": rewritten(meta=replace(meta, lwe_per_glwe=16)),
        "bodies": rewritten(modulus_switched_glwe_ciphertext_list=(replace(glwe, bodies_count=3),)),
        "dimension": rewritten(modulus_switched_glwe_ciphertext_list=(replace(glwe, glwe_dimension=1),)),
    }
    for changed in bad.values():
        with pytest.raises(WireError, match="CompressedCiphertextList"):
            read_compressed_list(changed, TOY_2_2, compression)
    for kind, bits in ((UINT, 16), (INT, 8), (BOOL, 1)):
        with pytest.raises(WireError, match="expected one value"):
            read_single_value(data, TOY_2_2, compression, kind, bits)
    assert not is_compressed_list(packing_client_key.encrypt(1, 8))
    assert not is_compressed_list(b"")


def test_keys_without_parts_that_can_be_used_do_not_pack(
    packing_server_key: bytes, toy_server_key: bytes, toy_client_key: ClientKey
) -> None:
    assert read_server_key_facts(toy_server_key).compression is None
    with pytest.raises(WireError, match="compresses"):
        load_packing_key(toy_server_key)
    with pytest.raises(WireError):
        toy_client_key.decrypt(b"no list")
    key = read_object(packing_server_key, CompressedServerKey)
    decompression = key.integer_key.decompression_key
    assert decompression is not None
    bootstrap = replace(decompression.bsk, modulus_switch_noise_reduction_key=CenteredMeanModulusSwitch())  # type: ignore[call-arg]
    for changes in (
        {"decompression_key": None},
        {"compression_key": None},
        {"decompression_key": replace(decompression, lwe_per_glwe=31)},
        {"decompression_key": replace(decompression, bsk=bootstrap)},
    ):
        changed = write_object(replace(key, integer_key=replace(key.integer_key, **changes)))  # type: ignore[arg-type]
        facts = read_server_key_facts(changed)
        assert facts.compression is None
        assert facts.parameters == TOY_2_2, "it computes all the same"


def test_the_key_of_compression_survives_the_client_key_file(packing_client_key: ClientKey) -> None:
    again = ClientKey.deserialize(packing_client_key.serialize())
    assert again.compression is not None
    assert packing_client_key.compression is not None
    assert again.compression.parameters == TOY_COMPRESSION
    assert np.array_equal(again.compression.glwe_key, packing_client_key.compression.glwe_key)
