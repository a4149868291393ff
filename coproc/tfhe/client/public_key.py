"""The compact public key: one encryption of zero from which anybody makes ciphertexts.

Mask ``A`` and body ``A s' + e`` where ``s'`` is the compact key read backwards (Libert's construction, as in TFHE-rs):
row ``i`` of what is encrypted with it has the mask ``X^i A``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coproc.tfhe.client.convert import compact_parameters
from coproc.tfhe.csprng import SecretRandom
from coproc.tfhe.glwe import BinaryPolynomial
from coproc.tfhe.wire import write_object
from coproc.tfhe.wire.core import NATIVE_MODULUS, GlweCiphertext
from coproc.tfhe.wire.keys import BlockCompactPublicKey, CompactPublicKey, LweCompactPublicKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters


def compact_public_key(parameters: ClassicParameters, key: NDArray[np.uint64], tag: bytes) -> bytes:
    """Make the public key of a compact private key, shape ``(n,)``; serialized."""
    random = SecretRandom()
    mask = random.words((len(key),))
    body = BinaryPolynomial(key[::-1]).times(mask) + random.tuniform(parameters.compact_noise_bound_log2, mask.shape)
    ciphertext = GlweCiphertext[np.uint64](np.concatenate([mask, body]), len(key), NATIVE_MODULUS)
    block = BlockCompactPublicKey(LweCompactPublicKey(ciphertext), compact_parameters(parameters))
    return write_object(CompactPublicKey(block, tag))
