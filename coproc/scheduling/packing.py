"""Stored ciphertexts packed and taken out: from stored bytes to jobs, and back to bytes.

Decides what a compressed form of one value looks like (a list of that value alone). Pure and possibly slow, so that
callers run it on a thread; knows nothing of stores, executors nor tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coproc.circuits.unpacking import unpacking_circuit
from coproc.errors import IrrecoverableError
from coproc.executors.compression import pack
from coproc.program.types import handle_type
from coproc.scheduling.batch import WrongKey, kind_of
from coproc.scheduling.cache import Value
from coproc.tfhe.ciphertext import read_ciphertext, write_ciphertext
from coproc.tfhe.compressed_list import read_single_value, write_compressed_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit
    from coproc.keyring import KeyFacts
    from coproc.program.types import Handle
    from coproc.store.base import StoredCiphertext
    from coproc.tfhe.keys import PackingKey


class NotCompressible(IrrecoverableError):
    """A compressed ciphertext lies under a key that has nothing to take it out with."""

    rule = "NOT_COMPRESSIBLE"


@dataclass(frozen=True, slots=True, eq=False)
class UnpackingBatch:
    """One job that takes values out."""

    circuit: Circuit
    inputs: NDArray[np.uint64]
    """Shape ``(blocks, k'*N' + 1)``, under the key of compression."""
    outputs: tuple[tuple[StoredCiphertext, int, int], ...]
    """Ciphertext, first block among the circuit's outputs, and number of blocks."""

    def values(self, outputs: NDArray[np.uint64]) -> dict[Handle, Value]:
        """Read the job's outputs, shape ``(blocks, k*N+1)``."""
        return {
            item.handle: Value(item.key_id, outputs[first : first + blocks].copy(), item.clear)
            for item, first, blocks in self.outputs
        }


def prepare_unpacking(
    stored: Iterable[StoredCiphertext], facts: KeyFacts, key_id: bytes
) -> tuple[UnpackingBatch | None, dict[Handle, IrrecoverableError]]:
    """Plan to take compressed values out.

    Returns:
        The job, None if there is nothing to take out; and for what cannot be had, why.
    """
    errors: dict[Handle, IrrecoverableError] = {}
    parts: list[NDArray[np.uint64]] = []
    outputs: list[tuple[StoredCiphertext, int, int]] = []
    count = 0
    for item in stored:
        fhe_type = handle_type(item.handle)
        try:
            if item.key_id != key_id:
                raise WrongKey("is encrypted under another key", key_id=item.key_id.hex())
            if facts.compression is None:
                raise NotCompressible("is compressed, and its key has nothing to take it out with")
            kind = kind_of(fhe_type)
            blocks = read_single_value(item.data, facts.parameters, facts.compression, kind, fhe_type.bits)
        except IrrecoverableError as error:
            errors[item.handle] = error
            continue
        parts.append(blocks)
        outputs.append((item, count, len(blocks)))
        count += len(blocks)
    if not parts:
        return None, errors
    return UnpackingBatch(unpacking_circuit(count), np.concatenate(parts), tuple(outputs)), errors


def plain_forms(values: Mapping[Handle, Value], facts: KeyFacts) -> dict[Handle, bytes]:
    """Write values as plain ciphertexts."""
    forms: dict[Handle, bytes] = {}
    for handle, value in values.items():
        fhe_type = handle_type(handle)
        forms[handle] = write_ciphertext(value.blocks, facts.parameters, kind_of(fhe_type), fhe_type.bits, facts.tag)
    return forms


def packed_forms(stored: Iterable[StoredCiphertext], facts: KeyFacts, key: PackingKey) -> dict[Handle, bytes]:
    """Write plain (or seeded) ciphertexts as compressed ones; what cannot be read is left out."""
    values: dict[Handle, NDArray[np.uint64]] = {}
    for item in stored:
        fhe_type = handle_type(item.handle)
        try:
            values[item.handle] = read_ciphertext(item.data, facts.parameters, kind_of(fhe_type), fhe_type.bits)
        except IrrecoverableError:
            continue
    if not values:
        return {}
    packed = pack(list(values.values()), key, facts.parameters.message_modulus)
    return {
        handle: write_compressed_list(
            parts, [(kind_of(handle_type(handle)), len(values[handle]))], facts.parameters, key.parameters, facts.tag
        )
        for handle, parts in zip(values, packed, strict=True)
    }
