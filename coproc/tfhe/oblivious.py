"""Ciphertexts that nobody chose: the raw material of random values.

Decides how a public seed becomes ciphertexts. Their masks are the stream of an AES key derived from the key id and the
seed, their bodies are 0; what they decrypt to depends on the secret key, so it is uniform to everybody without it, and
the same wherever the same seed is used with the same key.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.tfhe.csprng import mask_words
from coproc.tfhe.wire.core import AesCtrParams, CtrSeed, TableIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters

_DOMAIN: Final = b"coproc.random.v1"


def oblivious_ciphertexts(key_id: bytes, seed: bytes, count: int, parameters: ClassicParameters) -> NDArray[np.uint64]:
    """Return ``count`` ciphertexts of uniform positions, shape ``(count, k*N+1)``.

    Args:
        key_id: 32 bytes, the identity of the server key.
        seed: public.
        count: how many; the first ones do not depend on it.
        parameters: give the dimension.
    """
    digest = hashlib.sha256(_DOMAIN + key_id + seed).digest()
    stream = AesCtrParams(CtrSeed(int.from_bytes(digest[:16], "little")), TableIndex(0, 0))
    dimension = parameters.big_lwe_dimension
    words = np.zeros((count, dimension + 1), dtype=np.uint64)
    words[:, :-1] = mask_words(stream, 0, count * dimension).reshape(count, dimension)
    return words
