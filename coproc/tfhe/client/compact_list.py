"""Encrypting with a compact public key: many values in one list, as dapps do.

Decides how values become blocks and blocks ciphertexts (Libert's construction, as in TFHE-rs). Needs no secret, and
makes no proofs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import InvalidInput
from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.csprng import SecretRandom
from coproc.tfhe.glwe import BinaryPolynomial
from coproc.tfhe.wire import WireError, read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    BlockCompactList,
    BooleanKind,
    CompactCiphertextList,
    IntegerCompactList,
    SignedKind,
    UnsignedKind,
)
from coproc.tfhe.wire.core import NATIVE_MODULUS, LweCompactCiphertextList, TUniform
from coproc.tfhe.wire.keys import CompactPublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.tfhe.wire.ciphertexts import DataKind

_BLOCK_BITS: Final = 2


@dataclass(frozen=True, slots=True)
class ClearValue:
    """One value to encrypt."""

    value: int
    bits: int
    kind: CiphertextKind


def encrypt_list(public_key: bytes, values: Sequence[ClearValue], *, packed: bool = True) -> bytes:
    """Encrypt values as one ``CompactCiphertextList``, serialized.

    Args:
        public_key: a serialized TFHE-rs ``CompactPublicKey`` of 2_2 parameters.
        values: at least one.
        packed: put two blocks into each ciphertext, which halves the list.

    Raises:
        InvalidInput: a value does not fit its type.
        WireError: the key is none, or of other parameters.
    """
    if not values:
        raise InvalidInput("values", "must not be empty")
    key = read_object(public_key, CompactPublicKey)
    parameters = key.key.parameters
    words = key.key.key.glwe_ciphertext
    if (parameters.message_modulus, parameters.carry_modulus) != (4, 4):
        raise WireError("CompactPublicKey", "expected message modulus 4 and carry modulus 4")
    noise, n = parameters.encryption_noise_distribution, parameters.encryption_lwe_dimension
    if not isinstance(noise, TUniform) or words.data.size != 2 * n or n & (n - 1):
        raise WireError("CompactPublicKey", "expected TUniform noise, and mask and body of a power of two of words")
    blocks = np.concatenate([_blocks(value, index) for index, value in enumerate(values)])
    messages = blocks
    if packed:
        pairs = np.concatenate([blocks, np.zeros(len(blocks) % 2, dtype=np.uint64)]).reshape(-1, 2)
        messages = pairs[:, 0] + np.uint64(4) * pairs[:, 1]
    data = _encrypt(words.data, n, messages << np.uint64(59), noise.bound_log2)
    listed = LweCompactCiphertextList(data, n + 1, len(messages), NATIVE_MODULUS)
    block_list = BlockCompactList(listed, 15 if packed else 3, 4, 4, parameters.expansion_kind)
    info = tuple(_info(value) for value in values)
    return write_object(CompactCiphertextList(IntegerCompactList(block_list, info), key.tag))


def _blocks(value: ClearValue, index: int) -> NDArray[np.uint64]:
    low = -(1 << (value.bits - 1)) if value.kind is CiphertextKind.INT else 0
    if not low <= value.value < low + (1 << value.bits):
        raise InvalidInput(f"values[{index}]", f"{value.value} does not fit {value.bits} bits")
    count = -(-value.bits // _BLOCK_BITS)
    return np.array([(value.value >> (_BLOCK_BITS * block)) & 3 for block in range(count)], dtype=np.uint64)


def _info(value: ClearValue) -> DataKind:
    if value.kind is CiphertextKind.BOOL:
        return BooleanKind()
    form = SignedKind if value.kind is CiphertextKind.INT else UnsignedKind
    return form(-(-value.bits // _BLOCK_BITS))


def _encrypt(key: NDArray[np.uint64], n: int, messages: NDArray[np.uint64], bound_log2: int) -> NDArray[np.uint64]:
    """Encrypt torus words; returns the masks of all bins of ``n`` ciphertexts, then all bodies."""
    random = SecretRandom()
    masks: list[NDArray[np.uint64]] = []
    bodies: list[NDArray[np.uint64]] = []
    for start in range(0, len(messages), n):
        part = messages[start : start + n]
        secret = BinaryPolynomial(random.bits(n))
        # TFHE-rs multiplies by the reversed secret; a uniform one stands for its own reversal.
        mask, body = secret.times(key.reshape(2, n))
        masks.append(mask + random.tuniform(bound_log2, (n,)))
        bodies.append(body[::-1][: len(part)] + random.tuniform(bound_log2, (len(part),)) + part)
    return np.concatenate([*masks, *bodies])
