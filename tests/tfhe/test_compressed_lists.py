"""Lists as TFHE-rs itself makes them: read, and written to the last bit.

``data/compressed_list_1_5_1.safe`` was packed by TFHE-rs 1.5.1 from what ``fixedkeys`` makes; TFHE-rs also took out
what coproc packs (``make interop`` does both).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coproc.executors.compression import pack
from coproc.tfhe.ciphertext import read_ciphertext
from coproc.tfhe.compressed_list import read_compressed_list, write_compressed_list
from coproc.tfhe.lwe import decode, phases
from coproc.tfhe.parameters import TOY_2_2
from coproc.tfhe.server_key import load_packing_key, read_server_key_facts
from coproc.tfhe.wire import read_object, write_object
from coproc.tfhe.wire.ciphertexts import CompressedCiphertextList
from tests.tfhe.fixedkeys import VALUES, fixed_material

DATA = (Path(__file__).parent / "wire/data/compressed_list_1_5_1.safe").read_bytes()


def test_a_list_of_tfhe_rs_is_read_and_written_alike() -> None:
    assert write_object(read_object(DATA, CompressedCiphertextList)) == DATA


def test_packing_gives_the_bits_of_tfhe_rs() -> None:
    key, server_key, data = fixed_material()
    compression = read_server_key_facts(server_key).compression
    assert compression is not None
    blocks = [read_ciphertext(item, TOY_2_2, kind, bits) for item, (kind, bits, _) in zip(data, VALUES, strict=True)]
    (parts,) = pack([np.concatenate(blocks)], load_packing_key(server_key), TOY_2_2.message_modulus)
    kinds = [(kind, len(own)) for (kind, _, _), own in zip(VALUES, blocks, strict=True)]
    assert write_compressed_list(parts, kinds, TOY_2_2, compression, key.tag) == DATA


def test_a_list_of_tfhe_rs_holds_the_values() -> None:
    key, server_key, _ = fixed_material()
    compression = read_server_key_facts(server_key).compression
    assert compression is not None
    assert key.compression is not None
    found = read_compressed_list(DATA, TOY_2_2, compression)
    assert [(value.kind, value.bits) for value in found.values] == [(kind, bits) for kind, bits, _ in VALUES]
    digits = decode(phases(found.ciphertexts, key.compression.glwe_key.reshape(-1)), TOY_2_2.delta_log2 + 2)
    for (_, bits, clear), value in zip(VALUES, found.values, strict=True):
        own = digits[value.first_block : value.first_block + value.blocks]
        assert sum(int(digit) << (2 * index) for index, digit in enumerate(own)) == clear % (1 << bits)
