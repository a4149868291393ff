"""Pseudo-random words from a seed, byte for byte as tfhe-csprng makes them.

Decides how a seed becomes a stream of bytes: AES-128 in counter mode, the counter little endian. Forks of the stream
are contiguous parts of it, so every seeded TFHE-rs object is one run of words that can be entered anywhere.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from coproc.tfhe.wire.core import AesCtrParams, CtrSeed, TableIndex, XofSeed

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES: Final = 16
_WORD_BYTES: Final = 8


def new_seed() -> AesCtrParams:
    """Draw a fresh public seed; the stream starts at byte 1, where every release from 1.5 on can begin."""
    return AesCtrParams(CtrSeed(int.from_bytes(secrets.token_bytes(16), "little")), TableIndex(0, 1))


def stream_bytes(params: AesCtrParams, start: int, count: int) -> NDArray[np.uint8]:
    """Return bytes ``[start, start + count)`` of the stream that begins at ``params.first_index``."""
    key, origin = _key_of(params.seed)
    first_byte = params.first_index.byte_index + start
    counter = origin + params.first_index.aes_index + first_byte // BLOCK_BYTES
    skip = first_byte % BLOCK_BYTES
    blocks = -(-(skip + count) // BLOCK_BYTES)
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - ECB over counters is counter mode
    output = np.empty(blocks * BLOCK_BYTES + BLOCK_BYTES - 1, dtype=np.uint8)
    written = encryptor.update_into(_counters(counter, blocks).tobytes(), output.data)
    return output[:written][skip : skip + count]


def mask_words(params: AesCtrParams, start: int, count: int) -> NDArray[np.uint64]:
    """Return 64-bit words ``[start, start + count)`` of the stream."""
    data = stream_bytes(params, start * _WORD_BYTES, count * _WORD_BYTES)
    return np.frombuffer(data.tobytes(), dtype="<u8").astype(np.uint64, copy=False)


def _counters(first: int, count: int) -> NDArray[np.uint64]:
    """Return ``count`` consecutive 128-bit little-endian counters, shape ``(count, 2)``."""
    low, high = first & ((1 << 64) - 1), (first >> 64) & ((1 << 64) - 1)
    counters = np.empty((count, 2), dtype="<u8")
    counters[:, 0] = np.uint64(low) + np.arange(count, dtype=np.uint64)
    counters[:, 1] = np.uint64(high)
    counters[:, 1] += (counters[:, 0] < np.uint64(low)).astype(np.uint64)  # the carry, where the low word wrapped
    return counters


def _key_of(seed: CtrSeed | XofSeed) -> tuple[bytes, int]:
    """Return the AES key and the counter of block 0."""
    if isinstance(seed, CtrSeed):
        return seed.seed.to_bytes(16, "little"), 0
    return _absorb(seed.data.tobytes())


def _absorb(data: bytes) -> tuple[bytes, int]:
    """Turn a long seed into key and first counter: a CBC chain under the all-zero key (tfhe-csprng ``XofSeed``)."""
    padded = data + bytes(-len(data) % BLOCK_BYTES) + (8 * len(data)).to_bytes(BLOCK_BYTES, "little")
    encryptor = Cipher(algorithms.AES(bytes(16)), modes.CBC(bytes(16))).encryptor()
    chained = encryptor.update(padded)
    return chained[-BLOCK_BYTES:], int.from_bytes(chained[-2 * BLOCK_BYTES : -BLOCK_BYTES], "little")


class SecretRandom:
    """Secret randomness for keys and noise: a counter-mode stream under a key from the operating system."""

    def __init__(self) -> None:
        self._params = AesCtrParams(CtrSeed(int.from_bytes(secrets.token_bytes(16), "little")), TableIndex(0, 0))
        self._position = 0

    def words(self, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        """Return uniform 64-bit words."""
        count = int(np.prod(shape, dtype=np.int64))
        words = mask_words(self._params, self._position, count)
        self._position += count
        return words.reshape(shape)

    def bits(self, count: int) -> NDArray[np.uint64]:
        """Return uniform bits, shape ``(count,)``, as a binary secret key."""
        words = self.words((-(-count // 64),))
        return np.unpackbits(words.view(np.uint8))[:count].astype(np.uint64)

    def tuniform(self, bound_log2: int, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        """Return TUniform(b) noise modulo 2^64: uniform on ``[-2^b, 2^b]`` with half-weight ends (TFHE-rs)."""
        wide = self.words(shape) >> np.uint64(64 - bound_log2 - 2)
        return ((wide + np.uint64(1)) >> np.uint64(1)) - np.uint64(1 << bound_log2)
