"""Packed with keys that TFHE-rs made, and taken out again, for TFHE-rs to decrypt.

node-tfhe has no compressed lists, but makes the keys for them; ``tests/tfhe/test_compressed_lists.py`` has lists of
TFHE-rs itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from coproc.circuits.unpacking import unpacking_circuit
from coproc.executors.compression import pack, prepare_unpacking
from coproc.executors.evaluation import Evaluation
from coproc.executors.reference import ReferenceExecutor
from coproc.tfhe.ciphertext import CiphertextKind, read_ciphertext, write_ciphertext
from coproc.tfhe.client import ClientKey
from coproc.tfhe.compressed_list import read_single_value, write_compressed_list
from coproc.tfhe.parameters import TOY_2_2, TOY_COMPRESSION
from coproc.tfhe.server_key import load_packing_key, load_server_key, load_unpacking_key, read_server_key_facts

if TYPE_CHECKING:
    from tests.clients.node import NodeClient

VALUES = [("FheUint64", CiphertextKind.UINT, 64, 2**63 + 12345), ("FheInt8", CiphertextKind.INT, 8, -100)]


async def test_keys_and_ciphertexts_of_a_real_client_are_packed_and_taken_out(node: NodeClient) -> None:
    client_key = ClientKey.generate(TOY_2_2, tag=b"ours", compression=TOY_COMPRESSION)
    secret = client_key.serialize()
    server_key = await node.compressed_server_key(secret)
    facts = read_server_key_facts(server_key)
    compression = facts.compression
    assert compression is not None
    assert compression == replace(TOY_COMPRESSION, packing_noise_bound_log2=0)
    packing = load_packing_key(server_key)
    executor = ReferenceExecutor()
    casting = prepare_unpacking(executor, load_server_key(server_key), load_unpacking_key(server_key))
    for name, kind, bits, value in VALUES:
        blocks = read_ciphertext(await node.encrypt(secret, name, value), TOY_2_2, kind, bits)
        (parts,) = pack([blocks], packing, TOY_2_2.message_modulus)
        data = write_compressed_list(parts, [(kind, len(blocks))], TOY_2_2, compression, facts.tag)
        assert client_key.decrypt(data) == value
        taken = read_single_value(data, TOY_2_2, compression, kind, bits)
        circuit = unpacking_circuit(len(taken))
        evaluation = Evaluation(executor, casting.prepared, circuit, casting.bring(taken))
        await trio.to_thread.run_sync(evaluation.run_level)
        plain = write_ciphertext(evaluation.outputs(), TOY_2_2, kind, bits, facts.tag)
        assert await node.decrypt(secret, name, plain) == value
