"""Lists under a compact public key are taken apart, whatever executor does it and wherever the key casts to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.casting import BOOLEAN, ODD, casting_circuit
from coproc.errors import InvalidInput
from coproc.executors.base import ExecutorUnavailable
from coproc.executors.casting import prepare_casting
from coproc.executors.evaluation import Evaluation
from coproc.executors.factory import EXECUTOR_NAMES, create_executor
from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.client.compact_list import ClearValue, encrypt_list
from coproc.tfhe.compact_list import read_compact_list
from coproc.tfhe.lwe import decode, phases
from coproc.tfhe.parameters import TOY_2_2
from coproc.tfhe.server_key import CastingKey, load_casting_key, load_server_key

if TYPE_CHECKING:
    from coproc.tfhe.client import ClientKey

VALUES = [
    ClearValue(0b11_10_01_00, 8, CiphertextKind.UINT),
    ClearValue(1, 1, CiphertextKind.BOOL),
    ClearValue(-1, 8, CiphertextKind.INT),
    ClearValue(0, 1, CiphertextKind.BOOL),
    ClearValue(1, 1, CiphertextKind.BOOL),
]
BLOCKS = [0, 1, 2, 3, 1, 3, 3, 3, 3, 0, 1]


@pytest.fixture(scope="module", params=EXECUTOR_NAMES)
def executor_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("packed", [True, False])
def test_every_executor_casts(
    executor_name: str, toy_client_key: ClientKey, toy_server_key: bytes, *, packed: bool
) -> None:
    try:
        executor = create_executor(executor_name, 1)
    except ExecutorUnavailable as missing:
        pytest.skip(missing.message)
    found = read_compact_list(encrypt_list(toy_client_key.compact_public_key(), VALUES, packed=packed), TOY_2_2)
    block = np.arange(len(BLOCKS), dtype=np.int32)
    table = np.zeros_like(block)
    for value in found.values:
        table[value.first_block : value.first_block + value.blocks] = (
            BOOLEAN if value.kind is CiphertextKind.BOOL else 0
        )
    source = block // 2 if packed else block
    table += (block % 2) * ODD if packed else 0
    circuit = casting_circuit(len(found.ciphertexts), source, table)
    assert circuit.bootstraps == len(BLOCKS)
    assert circuit.levels[0].forms.count == len(found.ciphertexts)  # a pair shares its keyswitch
    casting = prepare_casting(executor, load_server_key(toy_server_key), load_casting_key(toy_server_key))
    evaluation = Evaluation(executor, casting.prepared, circuit, casting.bring(found.ciphertexts))
    evaluation.run_level()
    digits = decode(phases(evaluation.outputs(), toy_client_key.glwe_key.reshape(-1)), TOY_2_2.delta_log2)
    assert digits.tolist() == BLOCKS


def test_compact_keys_may_be_smaller_but_not_larger(toy_server_key: bytes) -> None:
    executor = create_executor("reference")
    key, casting = load_server_key(toy_server_key), load_casting_key(toy_server_key)
    small = CastingKey(casting.base_log, casting.level, casting.keyswitch_key[:256])
    prepared = prepare_casting(executor, key, small)
    words = np.arange(2 * 257, dtype=np.uint64).reshape(2, 257) << np.uint64(40)
    wide = prepared.bring(words)
    assert wide.shape == (2, 513)
    # The same small ciphertext as by the definition.
    switched = executor.keyswitch(prepared.prepared, wide)
    again = prepare_casting(executor, key, casting)
    padded = np.concatenate([words[:, :-1], np.zeros((2, 256), dtype=np.uint64), words[:, -1:]], axis=1)
    assert np.array_equal(switched, executor.keyswitch(again.prepared, padded))
    large = replace(casting, keyswitch_key=np.concatenate([casting.keyswitch_key, casting.keyswitch_key]))
    with pytest.raises(InvalidInput, match="casting_key: has dimension 1024, at most 512 is supported"):
        prepare_casting(executor, key, large)
